"""Opening of the store: its database, made where it is missing, and its folder of image files.

SQLite runs in WAL mode. Predictions are committed with ``synchronous=NORMAL``, which a killed process cannot undo, and feedback with
``FULL``, which a power cut cannot undo either; on PostgreSQL ``synchronous_commit`` off and on are the same.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa
from filelock import FileLock, Timeout
from sqlalchemy.exc import ArgumentError, DisconnectionError, IntegrityError, SQLAlchemyError, StatementError

from bccp.core.errors import BCCPError
from bccp.core.home import home
from bccp.core.paths import expanded
from bccp.core.redaction import first_line, redact_url
from bccp.serving.store import tables
from bccp.serving.store.images import ImageFiles

PREDICTIONS_WAIT_SECONDS = 0.6
"""For other writers, before a prediction is not recorded."""

FEEDBACK_WAIT_SECONDS = 3.0
"""For other writers, before feedback is refused."""

_OPENING_WAIT_SECONDS = 60.0
_CONNECT_SECONDS = 2
_LOOK_AGAIN_SECONDS = 0.001
_ADVISORY_LOCK = 0x62636370  # "bccp"; others of the database may use their own


class StoreUnavailableError(Exception):
    """A store that is locked, full, read-only or gone; the text says which, in one line without secrets."""


class NoStoreError(BCCPError):
    """There is no store yet."""


class Store:
    """An open store.

    Attributes
    ----------
    address : str
        Of the database, without secrets.
    engine : sqlalchemy.Engine
        Commits of which the process's end costs none (predictions).
    durable : sqlalchemy.Engine
        Commits of which a power cut costs none (feedback).
    images : ImageFiles
    """

    def __init__(self, url: sa.URL, images: Path) -> None:
        self.address = redact_url(str(url))
        self.images = ImageFiles(images)
        self.engine = _engine(url, durable=False)
        self.durable = _engine(url, durable=True)
        self._file = Path(url.database or "") if url.get_backend_name() == "sqlite" else None
        self._writer = threading.Lock()  # SQLite has one at a time; threads that wait here need not poll for its lock

    def close(self) -> None:
        """Close all connections that are not in use."""
        self.engine.dispose()
        self.durable.dispose()

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A connection that sees one state of the database and holds no writer up.

        Raises
        ------
        StoreUnavailableError
        """
        with available(), self.engine.connect() as connection:
            yield connection.execution_options(bccp_reads=True)

    @contextmanager
    def writing(self, *, durable: bool = False) -> Iterator[sa.Connection]:
        """A transaction, which is committed at the block's end; an exception in the block undoes it.

        Raises
        ------
        StoreUnavailableError
            Where it cannot be begun, written or committed.
        """
        with available(), self._alone(FEEDBACK_WAIT_SECONDS if durable else PREDICTIONS_WAIT_SECONDS):
            with (self.durable if durable else self.engine).begin() as connection:
                yield connection
                identity = connection.info.get("file")
            if self._file is not None and _identity(self._file) != identity:
                raise StoreUnavailableError(f"{self._file} was deleted or replaced")

    @contextmanager
    def _alone(self, seconds: float) -> Iterator[None]:
        if self._file is None:
            yield
            return
        if not self._writer.acquire(timeout=seconds):
            raise StoreUnavailableError("database is locked")
        try:
            yield
        finally:
            self._writer.release()

    def check_writable(self) -> None:
        """Write to the database without changing it.

        Raises
        ------
        StoreUnavailableError
        """
        with self.writing() as connection:
            connection.execute(tables.schema_version.update().values(version=tables.SCHEMA_VERSION))
            self.images.check_writable()


@contextmanager
def available() -> Iterator[None]:
    """Raise errors of the database and of the file system as :class:`StoreUnavailableError`; those of the values given stay."""
    try:
        yield
    except (IntegrityError, sa.exc.DataError):
        raise
    except StatementError as error:
        if not isinstance(error, sa.exc.DBAPIError):  # a value that its column does not take
            raise
        raise StoreUnavailableError(first_line(error.orig or error)) from error
    except (SQLAlchemyError, sqlite3.Error, OSError) as error:
        raise StoreUnavailableError(first_line(error)) from error


def open_store(url: str | None, *, images: Path | None = None, create: bool = True) -> Store:
    """Open the store, and make what is missing of it; processes that do so at once wait for each other.

    Parameters
    ----------
    url : str or None
        ``sqlite:////absolute/file.db`` or ``postgresql://user@host/database``; None: ``serving/store.db`` under the home.
    images : Path, optional
        The folder of image files; ``serving/images`` under the home.
    create : bool
        Make a store where there is none; otherwise that is an error.

    Returns
    -------
    Store

    Raises
    ------
    NoStoreError
        Where there is none, and none is to be made.
    BCCPError
        If it cannot be opened, is no store, or one of a later release.
    """
    address = _url(url)
    folder = expanded(images) if images is not None else home() / "serving" / "images"
    shown = redact_url(str(address))
    try:
        if address.get_backend_name() == "sqlite":
            _prepare_sqlite(Path(str(address.database)), create=create)
        else:
            _prepare_postgresql(address, shown, create=create)
        if create:
            folder.mkdir(parents=True, exist_ok=True)
    except (SQLAlchemyError, sqlite3.Error) as error:
        raise BCCPError(f"the store {shown} cannot be opened ({_reason(error)}): set store.url to a database that can be") from error
    except Timeout as error:
        raise BCCPError(f"the store {shown} is being opened by another process for a minute: end that one first") from error
    except OSError as error:
        place = error.filename or shown
        raise BCCPError(f"{place} cannot be made ({error.strerror}): set store.url and store.images to places you may write to") from error
    return Store(address, folder)


def _url(url: str | None) -> sa.URL:
    if url is None:
        return sa.URL.create("sqlite", database=str(home() / "serving" / "store.db"))
    try:
        address = sa.make_url(url)
    except (ArgumentError, ValueError) as error:
        raise BCCPError(f"store.url={url!r} cannot be read: use sqlite:////absolute/file.db or postgresql://user@host/database") from error
    backend = address.get_backend_name()
    if backend not in ("sqlite", "postgresql"):
        raise BCCPError(f"store.url={url!r} is not accepted: use sqlite:////absolute/file.db or postgresql://user@host/database")
    if backend == "sqlite" and (address.query or not Path(address.database or "").is_absolute()):
        raise BCCPError(f"store.url={url!r} is no absolute path: write sqlite:/// and an absolute path without a question mark")
    return address


def _reason(error: BaseException) -> str:
    return first_line(getattr(error, "orig", None) or error)


def _prepare_sqlite(path: Path, *, create: bool) -> None:
    """Make the tables in one transaction, where there are none."""
    if not create and not path.is_file():
        raise NoStoreError(f"there is no store {path}: start bccp serve first")
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock", timeout=_OPENING_WAIT_SECONDS):
        with closing(sqlite3.connect(path, timeout=_OPENING_WAIT_SECONDS)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
        engine = _engine(sa.URL.create("sqlite", database=str(path)), durable=True, wait=_OPENING_WAIT_SECONDS)
        try:
            with engine.begin() as connection:
                _prepare_tables(connection, str(path), create=create)
        finally:
            engine.dispose()


def _prepare_postgresql(url: sa.URL, shown: str, *, create: bool) -> None:
    """Make the schema and its tables in one transaction, where there are none."""
    try:
        engine = _engine(url, durable=True, wait=_OPENING_WAIT_SECONDS)
    except ModuleNotFoundError as error:
        raise BCCPError(f"{shown} needs the Python package {error.name}: pip install psycopg2-binary") from error
    try:
        with engine.begin() as connection:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_ADVISORY_LOCK)))
            if create and not sa.inspect(connection).has_schema(tables.SCHEMA):
                connection.execute(sa.schema.CreateSchema(tables.SCHEMA))
            _prepare_tables(connection, shown, create=create)
    finally:
        engine.dispose()


def _prepare_tables(connection: sa.Connection, shown: str, *, create: bool) -> None:
    schema = tables.SCHEMA if connection.dialect.name == "postgresql" else None
    found = set(sa.inspect(connection).get_table_names(schema=schema))
    if tables.schema_version.name not in found:
        if taken := found & set(tables.metadata.tables):
            raise BCCPError(f"{shown} has a table {min(taken)} that is not the store's: set store.url to a database of its own")
        if not create:
            raise NoStoreError(f"there is no store in {shown}: start bccp serve first")
        tables.metadata.create_all(connection, checkfirst=False)
        connection.execute(tables.schema_version.insert().values(version=tables.SCHEMA_VERSION))
        return
    version = connection.execute(sa.select(tables.schema_version.c.version)).scalar_one()
    if version > tables.SCHEMA_VERSION:
        raise BCCPError(
            f"the store {shown} was made by a later BCCP (schema {version}, this one knows {tables.SCHEMA_VERSION}): "
            "install that release, or set store.url to another database"
        )


def _engine(url: sa.URL, *, durable: bool, wait: float | None = None) -> sa.Engine:
    """Connections to the database, by how much a commit may lose and how many seconds they wait for other writers."""
    seconds = wait if wait is not None else FEEDBACK_WAIT_SECONDS if durable else PREDICTIONS_WAIT_SECONDS
    if url.get_backend_name() == "sqlite":
        return _sqlite_engine(Path(str(url.database)), durable=durable, seconds=seconds)
    return _postgresql_engine(url, durable=durable, seconds=seconds)


def _sqlite_engine(path: Path, *, durable: bool, seconds: float) -> sa.Engine:
    uri = f"file:{quote(str(path))}?mode=rw"  # never makes a new one where the store was deleted

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(uri, uri=True, timeout=seconds, isolation_level=None, check_same_thread=False)
        connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
        return connection

    engine = sa.create_engine("sqlite://", creator=connect, poolclass=sa.QueuePool, pool_timeout=seconds)

    @sa.event.listens_for(engine, "connect")
    def remember(connection: Any, record: Any) -> None:
        record.info["file"] = _identity(path)

    @sa.event.listens_for(engine, "checkout")
    def verify(connection: Any, record: Any, proxy: Any) -> None:
        if record.info["file"] != _identity(path):
            raise DisconnectionError(f"{path} was deleted or replaced")

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        if connection.get_execution_options().get("bccp_reads"):
            connection.exec_driver_sql("BEGIN")
        else:
            _begin_writing(connection.connection.driver_connection, seconds)

    return engine


def _begin_writing(connection: Any, seconds: float) -> None:
    """Begin a transaction as the only one that writes: one that reads first would fail where another one writes in between.

    SQLite itself looks at longer and longer intervals whether it can begin, and finds no gap between another process's transactions.
    """
    end = time.monotonic() + seconds
    connection.execute("PRAGMA busy_timeout = 0")
    try:
        while True:
            try:
                connection.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                    raise
            time.sleep(_LOOK_AGAIN_SECONDS)
    finally:
        connection.execute(f"PRAGMA busy_timeout = {round(1000 * seconds)}")


def _identity(path: Path) -> tuple[int, int] | None:
    """Device and number of a file, None where it is gone."""
    try:
        about = path.stat()
    except OSError:
        return None
    return about.st_dev, about.st_ino


def _postgresql_engine(url: sa.URL, *, durable: bool, seconds: float) -> sa.Engine:
    engine = sa.create_engine(
        url,
        connect_args={"connect_timeout": _CONNECT_SECONDS, "application_name": "bccp"},
        pool_pre_ping=True,
        pool_timeout=seconds,
        execution_options={"schema_translate_map": {None: tables.SCHEMA}},
    )

    @sa.event.listens_for(engine, "connect")
    def settle(connection: Any, record: Any) -> None:
        with closing(connection.cursor()) as cursor:
            cursor.execute(f"SET synchronous_commit = {'on' if durable else 'off'}")
            cursor.execute(f"SET lock_timeout = {round(1000 * seconds)}")
            cursor.execute("SET timezone = 'UTC'")
        connection.commit()

    return engine
