"""What goes wrong around the home and the store: one clear sentence, a status that is not 0, and nothing lost or half-written."""

from __future__ import annotations

import ctypes
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bccp.pipeline import hydra_app
from bccp.tracking.backends import ledger_uri
from bccp.tracking.store import Ledger

QUICK = ["preprocessing.image_size=32", "main.threads=1", "tracking.wandb=disabled"]
FIRST_THREE = ["main.execute_steps=[fetch_data,preprocessing,segregation]"]


@pytest.fixture
def words(image_folder: Callable[..., Path]) -> list[str]:
    """Options of a short run on images of the test's own."""
    return [*QUICK, *FIRST_THREE, "data.source=folder", f"data.path={image_folder({'ant': 100, 'bee': 100}, size=32)}"]


def summaries(home: Path) -> list[dict[str, object]]:
    """All summaries of a home, oldest first."""
    paths = sorted((home / "outputs").rglob("summary.json"), key=lambda path: path.stat().st_mtime)
    return [json.loads(path.read_text()) for path in paths]


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run, and return what the command line ends with."""
    capsys.readouterr()
    assert hydra_app.hydra_main(words) == 1
    told = capsys.readouterr()
    assert "Traceback" not in told.err + told.out
    last = told.err.splitlines()[-1]
    assert last.startswith("error: ")
    assert "please report" not in last
    return last


def test_a_server_that_does_not_answer(
    home: Path, words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{probe.getsockname()[1]}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    sentence = refused(words, capsys)
    assert f"the tracking server {uri} does not answer" in sentence
    (summary,) = summaries(home)
    assert sentence == f"error: {summary['error']}"


@pytest.mark.parametrize("flags", [[], ["-m"]])
def test_a_password_in_the_servers_address_is_told_and_recorded_nowhere(
    home: Path, words: list[str], flags: list[str], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert hydra_app.hydra_main([*flags, *words, "tracking.mlflow_uri='http://me:passw0rd@127.0.0.1:1/x'"]) == 1
    (summary,) = summaries(home)
    assert summary["config"]["tracking"]["mlflow_uri"] == "http://127.0.0.1:1/x"  # type: ignore[index]
    assert "the tracking server http://127.0.0.1:1/x does not answer" in str(summary["error"])
    files = [path for path in home.rglob("*") if path.is_file()]
    assert {"summary.json", "overrides.yaml", "config.yaml"} <= {path.name for path in files}
    for place in [*(path.read_bytes() for path in files), "".join(capfd.readouterr()).encode()]:
        assert b"passw0rd" not in place


def test_an_old_file_store_lying_about_is_neither_used_nor_touched(
    home: Path, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    old = tmp_path / "work" / "mlruns" / "0"
    old.mkdir(parents=True)
    (old / "meta.yaml").write_text("artifact_location: file:///x\nexperiment_id: '0'\nlifecycle_stage: active\nname: Default\n")
    monkeypatch.chdir(tmp_path / "work")
    words.append("main.execute_steps=[fetch_data]")
    assert hydra_app.hydra_main(words) == 0
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "file:./mlruns")
    assert hydra_app.hydra_main(words) == 0
    assert "MLFLOW_TRACKING_URI=file:./mlruns is not used" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "work").rglob("*")] == ["mlruns", "0", "meta.yaml"]
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert "tracking.mlflow_uri='file:./mlruns' is not accepted" in refused([*words, "tracking.mlflow_uri='file:./mlruns'"], capsys)


def test_a_damaged_store(home: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    (home / "mlflow.db").write_bytes(b"no database at all" * 100)
    assert f"the store sqlite:///{home}/mlflow.db cannot be opened" in refused(words, capsys)
    assert (home / "mlflow.db").read_bytes() == b"no database at all" * 100


def without_privileges() -> None:
    """Let a child of root be bound by permissions as others are."""
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP


@pytest.mark.skipif(sys.platform != "linux", reason="root needs prctl to lose its privileges")
@pytest.mark.parametrize(
    ("what", "mode", "sentence"),
    [
        ("home", 0o500, "cannot be written to: set it to a folder you may write to"),
        pytest.param("home/mlflow.db", 0o400, "cannot be written", marks=pytest.mark.slow),
        pytest.param("home/artifacts", 0o500, "cannot be written (Permission denied)", marks=pytest.mark.slow),
    ],
)
def test_a_home_that_is_read_only(home: Path, words: list[str], root: Path, what: str, mode: int, sentence: str) -> None:
    place = home.parent / what
    if not place.exists():
        place.mkdir()
    place.chmod(mode)
    command = [sys.executable, str(root / "main.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=without_privileges, check=False)
    place.chmod(0o700)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert sentence in done.stderr.splitlines()[-1]
    assert str(home) in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A disk of the size that is asked for, larger when asked again; only root can make one."""
    place = tmp_path / "disk"
    place.mkdir()

    def of(size: str) -> Path:
        option = f"remount,size={size}" if place.is_mount() else f"size={size}"
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", option, "tmpfs", str(place)], capture_output=True, check=False)
        if done.returncode:
            pytest.skip("no small disk can be mounted here")
        return place

    yield of
    if place.is_mount():
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_embeddings_that_find_no_room_are_refused_before_the_first_is_written(small_disk: Callable[[str], Path]) -> None:
    from bccp.models.classifier import new_rows

    path = small_disk("1m") / "embeddings.npy"
    with pytest.raises(OSError, match="No space left on device"):
        new_rows(path, (1000, 1000))
    path.unlink()
    rows = new_rows(path, (1000, 100))
    rows[:] = 1
    assert rows.sum() == 100_000


@pytest.mark.parametrize("kilobytes", [1700, *(pytest.param(size, marks=pytest.mark.slow) for size in range(950, 2000, 75))])
def test_a_full_disk_ends_a_run_with_one_sentence_and_the_next_run_on_a_larger_one_goes_on(
    home: Path,
    words: list[str],
    empty_database: Path,
    small_disk: Callable[[str], Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    kilobytes: int,
) -> None:
    assert hydra_app.hydra_main(words) == 0
    expected = summaries(home)[0]
    disk = small_disk(f"{kilobytes}k")
    monkeypatch.setenv("BCCP_HOME", str(disk / "home"))
    (disk / "home").mkdir()
    shutil.copy(empty_database, disk / "home" / "mlflow.db")
    monkeypatch.setenv("MPLCONFIGDIR", str(home / "cache"))
    sentence = refused(words, capsys)
    assert f"the disk that holds {disk}" in sentence
    assert "is full: make room or set BCCP_HOME to another disk" in sentence
    assert not list((disk / "home" / "tmp").glob("*"))
    small_disk("100m")
    ledger = Ledger(ledger_uri(None)[0])
    for run in ledger.client.search_runs([ledger.experiment_id]):
        if run.info.status != "FINISHED" and "bccp.key" in run.data.tags:  # all that was missing was its end
            assert ledger.find(run.data.tags["bccp.step"], run.data.tags["bccp.key"]) is None
        if run.info.status == "RUNNING":
            ledger.tag(run.info.run_id, {"bccp.started": "1"})  # as if this process were another by now
    assert hydra_app.hydra_main(words) == 0
    whole = summaries(disk / "home")[-1]
    assert [step["outputs"] for step in whole["steps"]] == [step["outputs"] for step in expected["steps"]]  # type: ignore[attr-defined]
    assert "RUNNING" not in {run.info.status for run in ledger.client.search_runs([ledger.experiment_id])}
    ledger.client._tracking_client.store.engine.dispose()
