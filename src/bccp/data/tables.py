"""Tables on disk: CSV with text kept as text, in one order and one spelling, so that equal tables are equal bytes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd


def read(path: Path, *, dtypes: Mapping[str, type] | None = None) -> pd.DataFrame:
    """Read a table; every column is text unless ``dtypes`` says otherwise.

    Ids and class names such as ``0012``, ``NA`` or ``1e5`` stay what they are, and an empty cell is an empty string.

    Parameters
    ----------
    path : Path
        A CSV file in UTF-8 (a byte-order mark is allowed).
    dtypes : mapping of str to type, optional
        Columns that hold numbers, with their type.

    Returns
    -------
    DataFrame
        One row a line, in the file's order.
    """
    table = pd.read_csv(path, dtype=str, keep_default_na=False, na_filter=False, encoding="utf-8-sig")
    return table.astype({name: kind for name, kind in (dtypes or {}).items() if name in table})


def write(table: pd.DataFrame, path: Path) -> None:
    """Write a table, sorted by its ``image`` column where it has one.

    Parameters
    ----------
    table : DataFrame
        Its index is not written.
    path : Path
        The CSV file to make: UTF-8, Unix line ends, floats in their shortest exact form.
    """
    if "image" in table.columns:
        table = table.sort_values("image", kind="stable")
    table.to_csv(path, index=False, encoding="utf-8", lineterminator="\n")
