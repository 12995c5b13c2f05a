"""toile data: get a data set, see what is in it, and what is wrong with it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from toile.errors import ToileError

if TYPE_CHECKING:
    from rich.table import Table

    from toile.data.records import Source
    from toile.data_check.findings import Diagnosis

data = App(name="data", help="Get a data set, and look at it: what is wrong with it, and what a model would see.")
_Json = Annotated[bool, Parameter(name="--json")]
_EXAMPLES = 3
_LONGEST_EXAMPLE = 60


@data.command
def get(name: str, /, *, out: Path | None = None, revision: str | None = None, json_output: _Json = False) -> int:
    """Download a published data set; afterwards its name finds it offline, as source of a recipe or of data check.

    Args:
        name: fashion-mnist; products or monet, from Kaggle, the latter with an account; or OWNER/NAME of a data set on
            the hub that has pictures, zips or tar shards.
        out: folder to make its folder in; by default the one that TOILE_DATA names, else one of the user's.
        revision: a branch, tag or commit on the hub, or the number of a version on Kaggle; what it stands for now is
            kept.
        json_output: print the result as JSON.
    """
    from contextlib import ExitStack

    from toile.cli.progress import ProgressDisplay
    from toile.data.fetch import FetchedData, fetch_data

    fetched: FetchedData | None = None
    with ExitStack() as stack:
        progress: ProgressDisplay | None = None
        for event in fetch_data(name, out, revision):
            if isinstance(event, FetchedData):
                fetched = event
            else:  # only now, because libraries that download show their own
                progress = progress or stack.enter_context(ProgressDisplay("get"))
                progress.show(event.fraction, event.note)
    assert fetched is not None
    record = fetched.record
    if json_output:
        # The files themselves may be tens of thousands; the record in the folder has them.
        facts = {**asdict(record), "files": len(record.files), "folder": str(fetched.folder)}
        facts["was_there"] = fetched.was_there
        print(json.dumps(facts, indent=2))
        return 0
    pinned = f", revision {record.revision[:12]}" if record.revision else ""
    done = "is there as it was fetched" if fetched.was_there else "was fetched"
    size = f"{record.num_bytes / 1e6:,.1f} MB in {len(record.files):,} files"
    print(f"{name} {done}, from {record.origin}{pinned}, {size}: {fetched.folder}")
    return 0


@data.command
def check(
    source: str,
    /,
    *,
    fix: bool = False,
    limit: int | None = None,
    min_size: int | None = None,
    radius: int = 6,
    tolerance: float = 12.0,
    split_seed: int = 0,
    caption: str | None = None,
    clip: Path | None = None,
    model: str = "fashion",
    out: Path = Path("check"),
    json_output: _Json = False,
) -> int:
    """Say what is wrong with pictures and captions before a model learns from them; the data is never changed.

    Args:
        source: products, fashion-mnist, monet, OWNER/NAME of what was fetched, or pictures with or without words: a
            folder, a zip, or .tar shards.
        fix: also write a cleaned list, kept.txt: one of each group of near-duplicates, nothing unreadable, tiny or
            with words that say nothing.
        limit: look at the first so many records only.
        min_size: shortest side in pixels below which a picture is tiny; by default 64, or half the median of the data.
        radius: bits of 64 in which the hashes of near-duplicates may differ, 0 to 16.
        tolerance: largest difference of near-duplicates at 16x16 pixels, of 255.
        split_seed: of the split that training makes, as data.split_seed of a recipe.
        caption: of pictures that have no words of their own, as data.caption of a recipe.
        clip: folder of a CLIP; with it the captions that match their picture least are listed.
        model: whose tokenizer counts: the name of the bundled model, a model folder, or a model's file.
        out: folder for the report; one of an earlier check is replaced.
        json_output: print the result as JSON.
    """
    from toile.cli.progress import ProgressDisplay
    from toile.data_check.doctor import CheckConfig, check_source
    from toile.data_check.findings import Diagnosis
    from toile.data_check.reader import load_reader
    from toile.data_check.report import check_report_folder, write_report
    from toile.model_files.clip_pair import load_clip_pair

    config = CheckConfig(limit, min_size, radius, tolerance, split_seed)
    path, opened = _open(source, caption)
    check_report_folder(out, path)
    reader = load_reader(model)
    matcher = None if clip is None else load_clip_pair(clip)
    diagnosis: Diagnosis | None = None
    with ProgressDisplay("check") as progress:
        for event in check_source(opened, reader, config, matcher):
            if isinstance(event, Diagnosis):
                diagnosis = event
            else:
                progress.show(event.fraction, event.note)
    assert diagnosis is not None
    files = write_report(out, diagnosis, opened, path, fix)
    if json_output:
        places = {name: None if place is None else str(place) for name, place in vars(files).items()}
        print(json.dumps({**_summary(diagnosis), "files": places}, indent=2))
        return 0
    _print_table(diagnosis, path)
    if files.kept is not None:
        print(f"cleaned list of {len(diagnosis.kept):,} records: {files.kept}")
    print(f"report: {files.page} (all cases: {files.findings})")
    return 0


@data.command
def show(
    source: str,
    /,
    *,
    num: Annotated[int, Parameter(name=["--num", "-n", "--n"])] = 16,
    seed: int = 0,
    caption: str | None = None,
    size: str | None = None,
    model: str = "fashion",
    out: Path = Path("check"),
    json_output: _Json = False,
) -> int:
    """Make a sheet of pictures as a model would be trained on them: padded to its size, captions drawn as in training.

    What does not fit into the tokens of the model is shown in brackets.

    Args:
        source: products, fashion-mnist, monet, OWNER/NAME of what was fetched, or pictures with or without words: a
            folder, a zip, or .tar shards.
        num: how many pictures, drawn at random.
        seed: of the choice of pictures and captions.
        caption: of pictures that have no words of their own, as data.caption of a recipe.
        size: width x height in pixels; by default the model's.
        model: the name of the bundled model, a model folder, or a model's file.
        out: folder for the sheet.
        json_output: print the result as JSON.
    """
    if num < 1 or num > 1024:
        raise ToileError(f"--num {num} is not possible; give 1 to 1024 pictures")

    from toile.cli.generate import parse_size
    from toile.cli.picture_folder import PictureFolder
    from toile.data_check.reader import load_reader
    from toile.data_check.report import check_outside
    from toile.data_check.samples import draw_samples

    path, opened = _open(source, caption)
    check_outside(out, path)
    reader = load_reader(model)
    width, height = (reader.width, reader.height) if size is None else parse_size(size)
    folder = PictureFolder(out)
    samples = draw_samples(opened, reader, num, seed, width, height)
    captions = [f"{sample.read} [{sample.cut}]" if sample.cut else sample.read for sample in samples]
    sheet = folder.write_sheet([sample.image for sample in samples], captions, name="data")
    if json_output:
        facts = [{"key": sample.key, "caption": sample.read, "cut": sample.cut} for sample in samples]
        print(json.dumps({"sheet": str(sheet), "pictures": facts}, indent=2))
    else:
        print(f"{len(samples)} of {len(opened.records):,} pictures at {width}x{height}: {sheet}")
    return 0


def _open(source: str, caption: str | None) -> tuple[Path, Source]:
    """Opens the data of this name or path; pictures without words are let in, to be counted."""
    from toile.data.places import find_data, has_name
    from toile.data.sources import open_source

    known = has_name(source) and not Path(source).exists()
    path = find_data(source, None if known else Path(source))
    return path, open_source(path, caption or "")


def _summary(diagnosis: Diagnosis) -> dict[str, object]:
    return {
        "records": diagnosis.num_records,
        "checked": diagnosis.num_checked,
        "kept": len(diagnosis.kept),
        "counts": {finding.kind: finding.count for finding in diagnosis.findings},
    }


def _print_table(diagnosis: Diagnosis, path: Path) -> None:
    from rich.console import Console

    from toile.data_check.findings import printable

    console = Console(highlight=False, markup=False)
    console.print(f"{printable(str(path))}: {diagnosis.num_checked:,} of {diagnosis.num_records:,} records looked at")
    console.print(_table(diagnosis))
    for line in diagnosis.not_checked:
        console.print(f"not looked for: {line}")


def _table(diagnosis: Diagnosis) -> Table:
    from rich.table import Table
    from rich.text import Text

    from toile.data_check.findings import printable

    table = Table("finding", box=None, pad_edge=False)
    table.add_column("count", justify="right")
    table.add_column("first examples")
    table.add_column("with --fix")
    for finding in diagnosis.findings:
        examples = [
            printable(", ".join(case.names[:2]) + (f" ({case.note})" if case.note else ""), _LONGEST_EXAMPLE)
            for case in finding.cases[:_EXAMPLES]
        ]
        # Text, because what stands in square brackets in a name is no markup.
        row = (finding.title, f"{finding.count:,}", "\n".join(examples), finding.remedy if finding.count else "")
        table.add_row(*map(Text, row), style="" if finding.count else "dim")
    return table
