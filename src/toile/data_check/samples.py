"""Some pictures of a data set with their captions, as training would show them to a model."""

from __future__ import annotations

import random
from dataclasses import dataclass

from PIL import Image

from toile.data.captions import CaptionWriter
from toile.data.images import open_image, pad_to
from toile.data.records import Source
from toile.data_check.reader import ModelReader
from toile.errors import ToileError


@dataclass(frozen=True, eq=False)
class Sample:
    """A picture at the size of training, and its caption: what of it is read, and the end that is not."""

    key: str
    image: Image.Image
    read: str
    cut: str


def draw_samples(source: Source, reader: ModelReader, num: int, seed: int, width: int, height: int) -> list[Sample]:
    """Draws records at random, each with a caption drawn as training draws it, in the order of the source.

    Args:
        source: records that cannot be read are passed over.
        reader: whose tokens count.
        num: how many; all if there are fewer.
        seed: of both draws.
        width, height: of the pictures in pixels; padded with white, never stretched.

    Raises:
        ToileError: not one picture can be read.
    """
    order = list(range(len(source.records)))
    random.Random(seed).shuffle(order)
    writer = CaptionWriter()
    found: dict[int, Sample] = {}
    for index in order:
        if len(found) == num:
            break
        try:
            image = pad_to(open_image(source.read_picture(index)), width, height)
        except ToileError:
            continue
        record = source.records[index]
        caption = writer.write(record, seed, index)
        cut = reader.tokenizer.batch([caption])[1][0]
        found[index] = Sample(record.key, image, caption[: len(caption) - len(cut)].rstrip(), cut)
    if not found:
        raise ToileError("not one picture can be read; toile data check says why")
    return [found[index] for index in sorted(found)]
