"""A home that was moved, renamed or copied: its store says of all that lies in it where it is now.

MLflow keeps absolute addresses. Where the home's own database names another home's, they are rewritten before anything is read, so that
MLflow itself, too, (``mlflow ui``, ``mlflow gc``, ``mlflow models serve``) finds what is in this home and touches nothing of the other one.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from filelock import FileLock

from bccp.tracking.backends import local_path
from bccp.tracking.tags import FOLDER_TAG

_ADDRESSES = (
    ("experiments", "artifact_location", ""),
    ("runs", "artifact_uri", ""),
    ("logged_models", "artifact_location", ""),
    ("model_versions", "source", ""),
    ("model_versions", "storage_location", ""),
    ("tags", "value", f"key = '{FOLDER_TAG}'"),
    ("trace_tags", "value", "key = 'mlflow.artifactLocation'"),
)
"""Tables and columns that hold addresses, and in which of their rows."""


def follow_home(database: Path, home: Path) -> None:
    """Let the home's own database name this home wherever it names the one that it was.

    Parameters
    ----------
    database : Path
        The SQLite file.
    home : Path
        The home, resolved. Any other database than its own is left as it is: others may use it.
    """
    if database.resolve() != home / "mlflow.db" or not database.is_file():
        return
    with closing(sqlite3.connect(database, timeout=60)) as connection:
        if not _columns(connection, "experiments") or former_home(connection, home) is None:
            return
    with FileLock(f"{database}.lock"), closing(sqlite3.connect(database, timeout=60)) as connection, connection:
        connection.execute("BEGIN IMMEDIATE")
        former = former_home(connection, home)
        if former is None:  # another process was first
            return
        for table, column, rows in _ADDRESSES:
            if column not in _columns(connection, table):  # another version of MLflow
                continue
            change = ["UPDATE", table, "SET", column, "= ?2 || substr(", column, ", length(?1) + 1)"]
            change += ["WHERE substr(", column, ", 1, length(?1) + 1) = ?1 || '/'", *(["AND", rows] if rows else [])]
            for before_and_now in ((former.as_uri(), home.as_uri()), (str(former), str(home))):
                connection.execute(" ".join(change), before_and_now)


def former_home(connection: sqlite3.Connection, home: Path) -> Path | None:
    """Return the home that the database was in when its first experiment was made; None where it is this one, or not known."""
    experiments = "SELECT experiment_id, artifact_location FROM experiments ORDER BY experiment_id"
    places = [(int(number), local_path(address)) for number, address in connection.execute(experiments) if address]
    for number, place in places:  # as `create_sqlite` makes MLflow's own experiment
        if number == 0 and place is not None and place.parts[-2:] == ("artifacts", "0"):
            return None if place.parents[1] == home else place.parents[1]
    for _, place in places:  # MLflow has made the database, and this package its experiment in it
        if place is not None and place.name == "artifacts" and place.parent != home:
            inside = f"{place.parent}/outputs/"
            ran = "SELECT 1 FROM tags WHERE key = ? AND substr(value, 1, length(?)) = ? LIMIT 1"
            if connection.execute(ran, (FOLDER_TAG, inside, inside)).fetchone():
                return place.parent
    return None


def _columns(connection: sqlite3.Connection, table: str) -> set[str]:
    return {name for _, name, *_ in connection.execute(f"PRAGMA table_info({table})")}
