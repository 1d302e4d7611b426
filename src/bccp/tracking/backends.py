"""The stores that MLflow can record in: SQLite in the home, PostgreSQL, or a tracking server."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from filelock import FileLock

from bccp.core.errors import BCCPError
from bccp.core.home import home
from bccp.core.processes import uninterrupted
from bccp.core.redaction import redact


def ledger_uri(configured: str | None) -> tuple[str, str | None]:
    """Choose the tracking URI (DESIGN, Ledger).

    Parameters
    ----------
    configured : str or None
        ``tracking.mlflow_uri``.

    Returns
    -------
    uri : str
        The configured one, else an http(s) or postgresql ``MLFLOW_TRACKING_URI``, else SQLite under the home.
    note : str or None
        One line for the user, where the environment said something that is not followed.
    """
    if configured:
        if not re.match(r"(https?|postgresql(\+\w+)?|sqlite)://", configured):
            raise BCCPError(f"tracking.mlflow_uri={configured!r} is not accepted: use an http(s)://, postgresql:// or sqlite:/// URI")
        if configured.startswith("sqlite:///") and not configured.startswith("sqlite:////"):
            raise BCCPError(f"tracking.mlflow_uri={configured!r} is a relative path: write sqlite:/// and an absolute path")
        return configured, None
    inherited = os.environ.get("MLFLOW_TRACKING_URI", "")
    if re.match(r"(https?|postgresql(\+\w+)?)://", inherited):
        return inherited, None
    own = f"sqlite:///{home() / 'mlflow.db'}"
    if not inherited or inherited == own:
        return own, None
    return (
        own,
        f"note: MLFLOW_TRACKING_URI={redact(inherited)} is not used; runs are recorded in {own} (tracking.mlflow_uri sets another place)",
    )


class Uninterrupted:
    """MLflow's client of a database, whose calls no signal cuts short: it would leave SQLAlchemy a connection within a transaction, and so
    the database locked.
    """

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        if not callable(found) or name == "log_artifacts":  # an upload, which may take long, to elsewhere
            return found

        def call(*arguments: Any, **named: Any) -> Any:
            with uninterrupted():
                return found(*arguments, **named)

        return call


def create_sqlite(uri: str, place: Path) -> None:
    """Make the database once, whole or not at all; parallel first use waits."""
    path = Path(uri.removeprefix("sqlite:///"))
    if path.exists():
        return
    import sqlite3

    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if path.exists():
            return
        fresh = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
        store: Any = SqlAlchemyStore(f"sqlite:///{fresh}", (place / "artifacts").as_uri())  # type: ignore[no-untyped-call]
        store.engine.dispose()
        with sqlite3.connect(fresh) as database:
            database.execute("PRAGMA journal_mode=WAL")
        database.close()
        fresh.replace(path)


@contextmanager
def prepare_postgresql(uri: str, place: Path) -> Iterator[None]:
    """Ask a database once (MLflow asks for minutes), and let processes of this home that use it first make its tables one after another."""
    import sqlalchemy

    try:
        engine = sqlalchemy.create_engine(uri, connect_args={"connect_timeout": 20})
    except ModuleNotFoundError as error:
        raise BCCPError(f"{uri} needs the Python package {error.name}: pip install psycopg2-binary") from error
    engine.connect().close()
    engine.dispose()
    with FileLock(place / "postgresql.lock"):
        yield


def local_path(uri: str) -> Path | None:
    """The folder that an artifact URI names, or None where it is remote."""
    parsed = urlparse(uri)
    if parsed.scheme not in ("", "file"):
        return None
    return Path(unquote(parsed.path))
