"""A real PostgreSQL: the server that ``BCCP_TEST_POSTGRESQL`` names, else one of Debian's binaries in a folder of its own."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from support.mlflow_server import free_port

VARIABLE = "BCCP_TEST_POSTGRESQL"
"""URL of a server on which databases may be made and dropped."""


@contextmanager
def server() -> Iterator[str]:
    """URL of a server; skips the test where there is none."""
    if given := os.environ.get(VARIABLE):
        yield given
        return
    binaries = max(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]), default=None)
    if binaries is None:
        pytest.skip(f"no PostgreSQL: install Debian's package postgresql, or set {VARIABLE} to a server's URL")
    place = Path(tempfile.mkdtemp(prefix="bccp-postgresql-", dir="/tmp"))  # the path of a socket must be short
    owner = {}
    if os.getuid() == 0:  # as whom PostgreSQL does not run
        nobody = pwd.getpwnam("nobody")
        os.chown(place, nobody.pw_uid, nobody.pw_gid)
        owner = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    port = free_port()
    options = f"-c listen_addresses=127.0.0.1 -p {port} -k {place} -c fsync=off -c max_connections=60"
    try:
        for command in (
            ["initdb", "-N", "-A", "trust", "-U", "bccp", "-E", "UTF8", "--locale=C", "-D", str(place / "data")],
            ["pg_ctl", "-w", "-t", "60", "-D", str(place / "data"), "-l", str(place / "log"), "-o", options, "start"],
        ):
            program = [str(binaries.with_name(command[0])), *command[1:]]
            subprocess.run(program, check=True, cwd=place, stdout=subprocess.DEVNULL, **owner)
        yield f"postgresql://bccp@127.0.0.1:{port}/postgres"
    finally:
        stop = [str(binaries.with_name("pg_ctl")), "-D", str(place / "data"), "-m", "immediate", "stop"]
        subprocess.run(stop, check=False, cwd=place, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **owner)
        shutil.rmtree(place, ignore_errors=True)


@contextmanager
def database(server_url: str) -> Iterator[str]:
    """URL of an empty database, which is dropped afterwards."""
    name = f"bccp_{uuid.uuid4().hex}"
    engine = sa.create_engine(server_url, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name}")
        yield sa.make_url(server_url).set(database=name).render_as_string(hide_password=False)
        with engine.connect() as connection:
            connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        engine.dispose()
