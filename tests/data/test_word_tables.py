"""The tables of words: from a few records by hand, and those of the bundled model from the published ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from toile.data.captions import CaptionWriter
from toile.data.products import ProductTable
from toile.data.records import Record
from toile.data.word_tables import build_word_tables
from toile.model_folder import WORDS_NAME, find_model, load_reader
from toile.schema import build_config
from toile.text.reader import PromptReader
from toile.text.word_tables import WordTables


def record(number: int, **fields: str) -> Record:
    named = {"articleType": "Dresses", "masterCategory": "Apparel", "baseColour": "Red", "gender": "Women"}
    return Record(str(number), named | fields)


RECORDS = [record(n) for n in range(60)] + [record(60, articleType="Blazers", baseColour="Burgundy", gender="Men")]


def test_counts_and_meanings_of_a_few_records() -> None:
    tables = build_config(WordTables, build_word_tables(RECORDS), "tables")
    dress = tables.articles["dress"]
    assert (dress.kind, dress.group, dress.count, dress.colour) == ("Dresses", "Apparel", 60, {"red": 60})
    assert tables.articles["blazer"].people == {"men": 1}
    assert tables.meanings["article"]["evening gown"] == ("dress",)
    assert tables.meanings["colour"]["crimson"] == ("red",)
    assert {"red", "scarlet", "frock", "ladies"} <= set(tables.known)
    assert "maroon" not in tables.meanings["colour"], "nothing means what the model never saw"


def test_what_is_rare_gives_way_to_what_it_also_means() -> None:
    more = [record(n, articleType="Jackets", baseColour="Maroon") for n in range(100, 160)]
    rare, frequent = (build_word_tables(records)["meanings"] for records in (RECORDS, RECORDS + more))
    assert (rare["article"]["blazer"], frequent["article"]["blazer"]) == (["blazer"], ["jacket"])
    assert (rare["colour"]["burgundy"], frequent["colour"]["burgundy"]) == (["burgundy"], ["maroon"])


@pytest.mark.realdata
@pytest.mark.slow
def test_the_bundled_tables_are_those_of_the_products_and_leave_captions_as_they_are(shared_data: Path) -> None:
    records = ProductTable(shared_data / "fashion-product-images-small.zip").records
    folder = find_model("fashion")
    assert json.loads((folder / WORDS_NAME).read_text(encoding="utf-8")) == build_word_tables(records)
    reader, writer = load_reader(folder), CaptionWriter()
    assert isinstance(reader, PromptReader)
    for product in records[:: len(records) // 500]:
        for caption in [writer.full(product), *(writer.write(product, 0, draw) for draw in range(4))]:
            reading = reader.read(caption)
            assert (reading.text, reading.told()) == (caption, "")
