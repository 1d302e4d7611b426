"""From the bytes of a table to its cells: CSV with any usual separator, JSON and JSON lines."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_DELIMITERS = ",;\t|"

_LOOKED_AT = 2000
"""Rows by which columns are told apart."""


_OTHER_TEXTS = {
    "version https://git-lfs": "is a pointer of Git LFS: fetch the file itself with git lfs pull",
    "<!doctype html": "is a web page: download the file itself",
    "<html": "is a web page: download the file itself",
    "<?xml": "is XML: export classes as CSV or JSON",
}
"""How texts begin that are no tables, and what they are."""


class UnreadTableError(Exception):
    """Error of a table that cannot be read; its message ends a sentence that begins with the table's name."""


@dataclass(frozen=True)
class Grid:
    """A table's cells.

    Attributes
    ----------
    names : sequence of str
        Of the columns, without blanks at their ends; empty for a column of row numbers.
    rows : sequence of sequence of str
        Perhaps shorter or longer than ``names``.
    places : sequence of str
        Where each row stands: ``line 3``, ``record 3``.
    surplus : sequence of bool
        Whether a row has cells beyond the columns.
    """

    names: Sequence[str]
    rows: Sequence[Sequence[str]]
    places: Sequence[str]
    surplus: Sequence[bool]

    def column(self, name: str) -> list[str]:
        """The cells of a column; empty where a row is too short."""
        position = self.names.index(name)
        return [row[position] if position < len(row) else "" for row in self.rows]

    def sample(self, name: str) -> list[str]:
        """The first cells of a column that are not empty, without blanks at their ends."""
        position = self.names.index(name)
        cells = (row[position].strip() for row in self.rows[:_LOOKED_AT] if position < len(row))
        return [cell for cell in cells if cell]


def decoded(content: bytes) -> str:
    """The text of a file in UTF-8, or in UTF-16 with a byte-order mark, as spreadsheets save Unicode text."""
    if content.startswith(b"PK\x03\x04"):
        raise UnreadTableError("is a workbook or an archive: save it as CSV in UTF-8")
    if content.startswith(b"PAR1"):
        raise UnreadTableError("is in Parquet's format: save it as CSV in UTF-8")
    try:
        text = content.decode("utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise UnreadTableError("is not text in UTF-8: save it so")
    start = text[:200].lstrip().casefold()
    for mark, what in _OTHER_TEXTS.items():
        if start.startswith(mark):
            raise UnreadTableError(what)
    return text


def parsed_json(text: str) -> Any:
    """A JSON document, or a list of one document a line; None where the text is CSV."""
    if text.lstrip()[:1] not in ("{", "["):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        first, *others = [line for line in text.splitlines() if line.strip()]
        try:
            return [json.loads(line) for line in (first, *others)]
        except (ValueError, RecursionError) as of_line:
            if len(_cells(first, _delimiter(text))) > 1 and not first.lstrip().startswith(('{"', "[{")):
                return None  # a table whose first column has such a name
            why = of_line if others and first.rstrip().endswith("}") else error
            raise UnreadTableError(f"is neither JSON nor JSON lines ({why}): export it again") from None


def grid_of_csv(text: str) -> Grid:
    """The cells of a CSV file; empty lines do not count."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=_delimiter(text))
    try:
        lines = [(reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells)]
    except csv.Error as error:
        raise UnreadTableError(f"is no CSV file ({error}): save it again as CSV in UTF-8") from None
    if not lines:
        raise UnreadTableError("is empty")
    names = [_name(cell) for cell in lines[0][1]]
    rows = [cells for _, cells in lines[1:]]
    surplus = [any(cell.strip() for cell in cells[len(names) :]) for cells in rows]
    return Grid(names, rows, [f"line {number}" for number, _ in lines[1:]], surplus)


def grid_of_json(data: Any) -> Grid:
    """The cells of records: a list of objects, or an object that has labels or objects by image."""
    if isinstance(data, Mapping):
        if {"images", "annotations"} <= set(data):
            raise UnreadTableError("is in COCO's format, which tells boxes and masks and not the class of a whole image: export classes")
        if data and all(isinstance(value, Mapping) for value in data.values()):
            data = [{"image": key} | dict(value) for key, value in data.items()]
        elif data and all(isinstance(value, str | int) for value in data.values()):
            data = [{"image": key, "label": value} for key, value in data.items()]
    if not isinstance(data, list) or not data or not all(isinstance(record, Mapping) for record in data):
        raise UnreadTableError("holds no records: give objects with an image and a label, one a line or in one list")
    return grid_of_records(data, "record")


def grid_of_records(records: Sequence[Mapping[str, Any]], called: str) -> Grid:
    """The cells of objects; what is no text is written as JSON, and null as nothing."""
    keys = list(dict.fromkeys(key for record in records for key in record))
    rows = [[_cell(record.get(key)) for key in keys] for record in records]
    return Grid([_name(str(key)) for key in keys], rows, [f"{called} {n}" for n in range(1, len(rows) + 1)], [False] * len(rows))


def _name(text: str) -> str:
    """A column's name; that of row numbers, which pandas writes, is none."""
    return "" if re.fullmatch(r"Unnamed: \d+", text.strip()) else text.strip()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _delimiter(text: str) -> str:
    """Find the separator of cells: the character that makes most of them of the first line."""
    head = next((line for line in text.splitlines() if line.strip()), "")
    return max(_DELIMITERS, key=lambda delimiter: len(_cells(head, delimiter)))


def _cells(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        return []
