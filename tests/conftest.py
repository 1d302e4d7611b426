"""What the tests share: a home of their own with a ready database, and small image folders."""

from __future__ import annotations

import os
import shutil
import signal
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bccp.core import step_graph
from bccp.core.home import PLACES
from bccp.core.paths import ROOT
from bccp.core.runtime.wandb_import import import_wandb
from bccp.tracking import backends
from support import postgresql
from support.pictures import write_images
from support.uv_stand_in import Tool
from support.wandb_stand_in import KEY, WandbStandIn

# a shell's background jobs ignore it, and so would all that the tests start
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


KINDS = ("unit", "integration", "e2e")
"""The folders of tests, and their marks."""

LONG = (
    "e2e/test_benchmark_speed",
    "e2e/test_isolation",
    "e2e/test_sweeps",
    "e2e/test_mlflow_run",
    "e2e/test_kills",
    "e2e/test_photographs",
    "e2e/test_server",
    "e2e/test_service_guarantees",
    "integration/test_wandb_run",
    "e2e/test_serving",
    "e2e/test_service_hostile",
    "e2e/test_bad_store",
    "e2e/test_environments",
    "e2e/test_pipeline",
    "integration/test_run_report",
    "integration/steps/test_bayes_cutoff",
    "unit/models/fitting/test_training",
)
"""Files that take longest."""

TESTS = Path(__file__).parent

n_tests: Counter[str] = Counter()
seconds: defaultdict[str, float] = defaultdict(float)
"""Tests that have run, and how long they took together, by kind."""


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests with their kind, and start with the long files: a process takes whole files, and the last one is waited for."""
    for item in items:
        item.add_marker(item.path.relative_to(TESTS).parts[0])
    order = {TESTS / f"{name}.py": place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: order.get(item.path, len(LONG)))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Add up how long tests take; each has a report of its fixtures, one of itself, and one of what is cleaned up."""
    kind = next(kind for kind in KINDS if kind in report.keywords) + ", slow" * ("slow" in report.keywords)
    n_tests[kind] += report.when == "setup"
    seconds[kind] += report.duration


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the minutes that each kind of tests has taken; processes that test at the same time share them."""
    n_processes = config.getoption("numprocesses", None) or 1
    for kind in KINDS:
        for group in (kind, f"{kind}, slow"):
            if n_tests[group]:
                terminalreporter.write_line(f"{group}: {seconds[group] / n_processes / 60:.1f} min, {n_tests[group]} tests")


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite store; copying it saves each test the migrations."""
    path = tmp_path_factory.mktemp("template") / "mlflow.db"
    backends.create_sqlite(f"sqlite:///{path}", path.parent)
    return path


@pytest.fixture
def bare_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A BCCP_HOME without a store, and an environment without anybody's keys or tracking server."""
    folder = tmp_path / "home"
    folder.mkdir()
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "WANDB_API_KEY", "WANDB_MODE", "BCCP_CONTEXT"):
        monkeypatch.delenv(name, raising=False)
    for name, place in PLACES.items():  # what an earlier test's home left in this process does not count
        monkeypatch.setenv(name, str(folder / place))
    monkeypatch.setenv("NETRC", str(folder / "no-netrc"))
    monkeypatch.setenv("BCCP_HOME", str(folder))
    return folder


@pytest.fixture
def home(bare_home: Path, empty_database: Path) -> Path:
    """``bare_home`` with an empty store."""
    shutil.copy(empty_database, bare_home / "mlflow.db")
    return bare_home


@pytest.fixture
def server(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbStandIn]:
    """The stand-in, and an account on it."""
    with WandbStandIn().started() as stand_in:
        monkeypatch.setenv("WANDB_BASE_URL", stand_in.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        import_wandb().teardown()  # an earlier test's process has that test's folders and address
        yield stand_in
        import_wandb().teardown()
    assert not stand_in.unknown


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[str]:
    """URL of a real server, one for all tests of this process; without one the tests that ask for it are skipped."""
    with postgresql.server() as url:
        yield url


@pytest.fixture
def postgresql_url(postgresql_server: str) -> Iterator[str]:
    """URL of an empty database."""
    with postgresql.database(postgresql_server) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of a store that is not there yet, in a file and on a server."""
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgresql_url"))
    return f"sqlite:///{tmp_path / 'store.db'}"


@pytest.fixture
def image_folder(tmp_path: Path) -> Callable[..., Path]:
    """Make a folder of class folders of small, clearly different images."""

    def make(classes: dict[str, int], *, name: str = "images", seed: int = 0, size: int = 16) -> Path:
        return write_images(tmp_path / name, classes, seed=seed, size=size)

    return make


@pytest.fixture
def one_thread() -> Iterator[None]:
    """More threads do not pay for such small networks."""
    import torch  # only the tests that ask for this load it

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def memory() -> Iterator[Any]:
    """Fsspec's file system ``memory://``, which is empty."""
    import fsspec  # only the tests that ask for this load it

    system = fsspec.filesystem("memory")
    system.store.clear()
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


@pytest.fixture
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture
def checkout(tmp_path: Path) -> Callable[[str], Path]:
    """Copy this checkout's code, as a clone has it."""

    def copy(name: str) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for part in ["MLproject", "conda.yml", "config.yaml", "main.py", *step_graph.STEPS, "src"]:
            if (ROOT / part).is_dir():
                shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
            else:
                shutil.copy(ROOT / part, folder / part)
        return folder

    return copy


@pytest.fixture
def tool(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Tool:
    """A stand-in for ``uv`` on PATH."""
    made = Tool(tmp_path)
    monkeypatch.setenv("PATH", f"{made.folder}:{os.environ['PATH']}")
    return made
