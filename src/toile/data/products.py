"""The Kaggle product table: `styles.csv` beside `images/<id>.jpg`, in a zip or a folder, read tolerantly."""

from __future__ import annotations

import csv
import re
from pathlib import Path, PurePosixPath

from toile.data.captions import pattern_of
from toile.data.records import DropCounter, Record
from toile.data.roots import Root, decode_text, identity_of, is_picture_name, member_name, open_root
from toile.errors import ToileError

TABLE_NAME = "styles.csv"
TITLE = "productDisplayName"
PATTERN = "pattern"  # a field that tables seldom have, and titles name
FILE_COLUMNS = ("image", "filename", "file_name", "path")
# Captions look fields up under these names, whatever the case in the header.
COLUMNS = (
    "id", "gender", "masterCategory", "subCategory", "articleType", "baseColour", "season", "year", "usage", TITLE,
)  # fmt: skip
BLANKS = frozenset({"", "na", "n/a", "none", "nan", "null", "-"})


class ProductTable:
    """Products with their attributes and pictures; implements Source.

    path: a zip or folder that holds styles.csv with at least an `id` column, at any depth, and pictures below it.
    Raises ToileError when there is no such table or not one of its rows has a picture.
    """

    def __init__(self, path: Path) -> None:
        self._root: Root = open_root(path)
        table = find_table(self._root)
        if table is None:
            raise ToileError(f"{path} holds no {TABLE_NAME}; give the product zip or the folder it unpacks to")
        self.identity = identity_of(self._root)
        drops = DropCounter()
        records, self._members = _read_records(self._root, table, drops)
        self.records: tuple[Record, ...] = tuple(records)
        self.report = drops.report(len(records))
        if not records:
            raise ToileError(f"{path} has no usable product: {self.report.summary()}")

    def read_picture(self, index: int) -> bytes:
        """The encoded bytes of one picture."""
        return self._root.read(self._members[index])

    def title(self, index: int) -> str:
        """The product's display name, empty if blank."""
        return self.records[index].fields.get(TITLE, "")


def find_table(root: Root) -> str | None:
    """The member name of the product table nearest to the top, if there is one."""
    tables = [name for name in root.members if PurePosixPath(name).name.lower() == TABLE_NAME]
    return min(tables, key=lambda name: (name.count("/"), name), default=None)


def _read_records(root: Root, table: str, drops: DropCounter) -> tuple[list[Record], list[str]]:
    # Not splitlines: titles may hold other characters that it takes for line ends.
    lines = re.split(r"\r\n|\r|\n", decode_text(root.read(table)))
    header = _header(lines[0])
    if "id" not in header:
        raise ToileError(f"{table} in {root.path} has no `id` column; its first line is {lines[0][:80]!r}")
    file_column = next((name for name in FILE_COLUMNS if name in header), "id")
    folder = PurePosixPath(table).parent
    pictures = _pictures_by_stem(root, folder)
    found: dict[str, tuple[Record, str]] = {}
    for line in lines[1:]:
        if not line.strip():
            continue
        cells, repair = _fit_row(_cells(line), header)
        row = {name: " ".join(cell.split()) for name, cell in zip(header, cells, strict=True) if name}
        key = row["id"]
        reason, member = _locate(row[file_column] or key, folder, pictures, root)
        if not key:
            reason = "blank ids"
        elif reason is None and key in found:
            reason = "repeated ids"
        if reason is not None:
            drops.drop(reason, key or line)
            continue
        if repair:
            drops.repair(repair)
        fields = {name: cell for name, cell in row.items() if name != "id" and cell.lower() not in BLANKS}
        if PATTERN not in fields and (pattern := pattern_of(fields)):
            fields[PATTERN] = pattern
        found[key] = Record(key, fields), member
    return [record for record, _ in found.values()], [member for _, member in found.values()]


def _header(line: str) -> list[str]:
    canonical = {name.lower(): name for name in (*COLUMNS, *FILE_COLUMNS)}
    names = [cell.strip() for cell in _cells(line)]
    return [canonical.get(name.lower(), name) for name in names]


def _cells(line: str) -> list[str]:
    """Splits one line; a line whose quotes do not pair up is split at every comma instead of swallowing the rest."""
    if line.count('"') % 2 == 0:
        try:
            return next(csv.reader([line]), [])
        except csv.Error:  # a cell beyond the size limit
            pass
    return line.replace('"', "").split(",")


def _fit_row(cells: list[str], header: list[str]) -> tuple[list[str], str]:
    """A row as long as the header (extra commas belong to the title, missing cells are blank), and what was mended."""
    extra = len(cells) - len(header)
    if extra > 0:
        title = header.index(TITLE) if TITLE in header else len(header) - 1
        joined = ",".join(cells[title : title + extra + 1])
        return [*cells[:title], joined, *cells[title + extra + 1 :]], "rows with too many commas"
    return cells + [""] * -extra, "rows with too few cells" if extra < 0 else ""


def _pictures_by_stem(root: Root, folder: PurePosixPath) -> dict[str, str]:
    """Picture members below the table's folder by file name without ending; those in `images/` come first."""
    below = [name for name in root.members if is_picture_name(name) and PurePosixPath(name).is_relative_to(folder)]
    preferred = f"{folder / 'images'}/"
    below.sort(key=lambda name: (not name.startswith(preferred), name.count("/"), name))
    found: dict[str, str] = {}
    for name in below:
        found.setdefault(PurePosixPath(name).stem, name)
    return found


def _locate(picture: str, folder: PurePosixPath, pictures: dict[str, str], root: Root) -> tuple[str | None, str]:
    """The member that holds a picture given by id or relative path, or the reason why there is none."""
    if not picture:
        return "blank ids", ""
    try:
        name = member_name(picture)
    except ToileError:
        return "paths outside the data root", ""
    for candidate in (str(folder / name), str(folder / "images" / name)):
        if candidate in root.members and is_picture_name(candidate):
            return None, candidate
    if "/" not in name:
        stem = PurePosixPath(name).stem if is_picture_name(name) else name
        if stem in pictures:
            return None, pictures[stem]
    return "missing pictures", ""
