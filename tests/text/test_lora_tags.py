"""Tags that name LoRAs: read, and kept from the text encoder."""

from __future__ import annotations

import pytest

from toile.errors import ToileError
from toile.text.lora_tags import LoRAUse, lora_tags, without_lora_tags
from toile.text.prompt import parse_prompt
from toile.text.reweigh import with_weight

TWO = "red <lora:monet:0.8> dress, <LoRA:old lace-2>(blue:1.2)"


def test_tags_are_read_in_order_and_left_out_of_the_words() -> None:
    assert lora_tags(TWO) == (LoRAUse("monet", 0.8), LoRAUse("old lace-2", 1.0))
    assert without_lora_tags(TWO) == "red dress,(blue:1.2)"
    assert parse_prompt(TWO) == parse_prompt("red dress,(blue:1.2)")


@pytest.mark.parametrize("text", ["a < b", "<i>red</i>", "<lora", "< lora:x:1>", ""])
def test_what_is_no_tag_is_text(text: str) -> None:
    assert lora_tags(text) == () and without_lora_tags(text) == text


@pytest.mark.parametrize(
    "tag",
    ["<lora:>", "<lora::1>", "<lora:../x:1>", "<lora:/etc/passwd>", "<lora:x:strong>", "<lora:x:nan>", "<lora:x:11>"],
)
def test_tags_that_name_no_lora_or_no_strength_are_refused(tag: str) -> None:
    with pytest.raises(ToileError):
        lora_tags(tag)


def test_another_weight_for_a_word_keeps_the_tags() -> None:
    assert with_weight("red dress <lora:monet:0.8>", "red", 2) == "(red:2.0) dress <lora:monet:0.8>"


def test_a_tag_is_written_as_it_is_read() -> None:
    use = LoRAUse("monet", -0.25)
    assert lora_tags(use.tag) == (use,)
