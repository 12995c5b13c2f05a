"""The published data sets themselves: counts, captions, split."""

from __future__ import annotations

import re
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from toile.data.captions import CaptionWriter, product_words, singular
from toile.data.products import ProductTable
from toile.data.sources import load_pictures, open_source
from toile.data.split import normalise_title, split_by_content

pytestmark = pytest.mark.realdata


@pytest.fixture(scope="module")
def products(shared_data: Path) -> ProductTable:
    return ProductTable(shared_data / "fashion-product-images-small.zip")


def test_every_product_of_the_table_is_read(products: ProductTable) -> None:
    assert len(products.records) == 37_719 == products.report.total_read
    shirt = products.records[0]
    assert shirt.key == "1163" and shirt.fields["articleType"] == "Tshirts"
    values = {value.lower() for record in products.records for value in record.fields.values()}
    assert not values & {"", "na", "none", "nan"}


def test_pictures_are_padded_to_size(products: ProductTable) -> None:
    loaded = load_pictures(products, 64, 80, range(0, 37_719, 40))
    assert loaded.pixels.shape == (943, 80, 64, 3) and loaded.report.dropped == 0
    borders = loaded.pixels[:, :, [0, 1, 62, 63]]
    assert (borders == 255).mean() > 0.99


def test_the_split_keeps_twins_together(products: ProductTable) -> None:
    titles = [products.title(index) for index in range(len(products.records))]
    # Checksums stand in for picture hashes: decoding is not what is tested here.
    members = [products.read_picture(index) for index in range(0, len(titles), 4)]
    hashes = [str(hash(data)) for data in members]
    split = split_by_content(hashes, titles[::4])
    sides = [split.train, split.validation, split.test]
    assert [len(side) / len(hashes) for side in sides] == pytest.approx([0.9, 0.05, 0.05], abs=0.02)
    for first, second in ((0, 1), (0, 2), (1, 2)):
        for values in (hashes, [normalise_title(title) for title in titles[::4]]):
            assert not {values[i] for i in sides[first]} & {values[i] for i in sides[second]} - {""}
    assert len(set(hashes)) < len(hashes)


def test_captions_of_all_products(products: ProductTable) -> None:
    writer = CaptionWriter()
    full = [writer.full(record) for record in products.records]
    start = time.process_time()
    drawn = [writer.write(record, 0, position) for position, record in enumerate(products.records)]
    assert len(drawn) / (time.process_time() - start) > 20_000
    for caption in (*full, *drawn):
        assert caption == caption.lower() and caption.isascii()
        assert not re.search(r"\bnone\b|\bnan\b|  |^[ ,]|[ ,]$|\ba a\b|\bcasual casual\b", caption), caption
        assert not re.search(r"\ba [aeio]", caption), caption
    words = Counter(word for caption in drawn for word in set(caption.replace(",", "").split()))
    assert len(words) < 900
    brands = {"nike", "adidas", "puma", "benetton", "catwalk", "fabindia", "titan", "fastrack", "wrangler"}
    assert not brands & set(words)
    assert {"checked", "striped", "printed", "polo", "chronograph", "sneakers", "crimson", "ladies"} <= set(words)


def test_no_article_type_keeps_a_strange_plural(products: ProductTable) -> None:
    kinds = {record.fields["articleType"] for record in products.records}
    plural = {name for name in map(singular, kinds) if name.endswith("s") and not name.endswith("ss")}
    assert plural == {
        "jeans", "trousers", "track pants", "shorts", "leggings", "jeggings", "capris", "tights", "sunglasses",
        "casual shoes", "sports shoes", "formal shoes", "sandals", "sports sandals", "heels", "flats", "flip flops",
        "booties", "socks", "gloves", "earrings", "cufflinks", "suspenders", "shoe laces",
    }  # fmt: skip


def test_title_words_are_common_enough_to_be_learnt(products: ProductTable) -> None:
    counts: Counter[str] = Counter()
    for record in products.records:
        known = product_words(record)
        special = (known.special_article,) if known.special_article else ()
        counts.update({*known.patterns, *special})
    assert min(counts.values()) >= 10, counts.most_common()[-5:]


def test_fashion_mnist(shared_data: Path) -> None:
    source = open_source(shared_data / "fashion-mnist")
    assert len(source.records) == 70_000
    assert Counter(record.fields["split"] for record in source.records) == {"train": 60_000, "test": 10_000}
    assert set(Counter(record.captions[0] for record in source.records).values()) == {7_000}
    assert source.records[0].captions == ("ankle boot",)
    loaded = load_pictures(source, 28, 28, [0, 69_999])
    assert np.ptp(loaded.pixels[0]) > 200
