"""How the process of a command begins and ends."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator

import pytest

from toile.cli.main import main


@pytest.fixture(autouse=True)
def collector_as_it_was() -> Iterator[None]:
    thresholds = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*thresholds)


@pytest.mark.parametrize(("arguments", "code"), [(["--version"], 0), (["describe", "no-such-model"], 2)])
def test_a_command_ends_with_its_code_and_without_looking_for_garbage(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int
) -> None:
    monkeypatch.setattr(sys, "argv", ["toile", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == code
    assert gc.get_threshold()[0] >= 10_000
    assert gc.get_freeze_count() > 10_000, "what is left at the end is not searched once more"
