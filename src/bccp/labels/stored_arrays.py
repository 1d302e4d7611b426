"""Judgements on disk: dataclasses of arrays and plain values, and digests of the rows that they are made from."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

_ROWS = 2048
"""Rows that are read at once."""


class DataclassInstance(Protocol):
    """Any dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


Record = TypeVar("Record", bound=DataclassInstance)


def write_record(folder: Path, record: DataclassInstance) -> None:
    """Write a dataclass: its arrays as ``<field>.npy``, all else into ``record.json``."""
    values: dict[str, Any] = {}
    for item in dataclasses.fields(record):
        value = getattr(record, item.name)
        if isinstance(value, np.ndarray):
            np.save(folder / f"{item.name}.npy", value)
        else:
            values[item.name] = value
    (folder / "record.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def read_record(folder: Path, kind: type[Record]) -> Record:
    """Read what :func:`write_record` wrote, equal to the bit; a tuple comes back as one, but not what is inside of it."""
    values: dict[str, Any] = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    for item in dataclasses.fields(kind):
        if item.name not in values:
            values[item.name] = np.load(folder / f"{item.name}.npy")
        elif isinstance(values[item.name], list) and str(item.type).startswith("tuple"):
            values[item.name] = tuple(values[item.name])
    return kind(**values)


def blocks(rows: Any) -> Iterable[npt.NDArray[Any]]:
    """The rows of a view, some at a time."""
    return (np.asarray(rows[start : start + _ROWS]) for start in range(0, len(rows), _ROWS))


def rows_digest(rows: Any) -> str:
    """SHA-256 of all rows of a view."""
    found = hashlib.sha256()
    for block in blocks(rows):
        found.update(f"{block.dtype} {block.shape}\n".encode() + np.ascontiguousarray(block).tobytes())
    return found.hexdigest()


def columns_digest(ids: Sequence[str], *columns: npt.ArrayLike) -> str:
    """SHA-256 of image ids and of the columns of numbers, int64, that stand beside them."""
    found = hashlib.sha256(json.dumps(list(ids)).encode())
    for column in columns:
        found.update(np.ascontiguousarray(column, np.int64).tobytes())
    return found.hexdigest()
