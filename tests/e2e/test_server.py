"""A tracking server instead of the local store: a real `mlflow server`, its artifacts in S3 (moto's), its runs in SQLite or PostgreSQL."""

from __future__ import annotations

import multiprocessing
import os
import pwd
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import yaml

import bccp
from bccp.cli.app import call
from bccp.core.errors import BCCPError
from bccp.core.processes import process_start
from bccp.tracking.backends import ledger_uri
from bccp.tracking.store import Ledger
from support.mlflow_server import KEYS, free_port, kill, mlflow_server

QUICK = ["preprocessing.image_size=16", "train.epochs=2", "bayes_cutoff.epochs=2", "bayes_cutoff.refine_epochs=2", "main.threads=1"]
QUICK += ["tracking.wandb=disabled"]
FIRST_TWO = ["main.execute_steps=[fetch_data,preprocessing]"]


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    """A client of a local S3 with the empty bucket `bccp`."""
    import boto3
    from moto.server import ThreadedMotoServer

    served = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    served.start()
    address = f"http://127.0.0.1:{served.get_host_and_port()[1]}"
    client = boto3.client("s3", endpoint_url=address, aws_access_key_id="planted", aws_secret_access_key="planted", region_name="us-east-1")
    client.create_bucket(Bucket="bccp")
    yield client
    client.close()
    served.stop()


@contextmanager
def postgresql() -> Iterator[str]:
    """The URI of a fresh PostgreSQL server, which root starts as the user `postgres`."""
    if shutil.which("initdb") is None or shutil.which("pg_ctl") is None:
        pytest.skip("no PostgreSQL server is installed")
    folder, port = Path(tempfile.mkdtemp(prefix="pg-")), free_port()
    who: dict[str, Any] = {}
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        user = pwd.getpwnam("postgres")
        os.chown(folder, user.pw_uid, user.pw_gid)
        who = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}

    def command(*words: str) -> None:
        subprocess.run([*words], cwd=folder, check=True, capture_output=True, **who)

    try:
        command("initdb", "-D", f"{folder}/data", "-U", "bccp", "--auth=trust", "--no-sync")
        options = f"-p {port} -k {folder} -h 127.0.0.1 -F"
        command("pg_ctl", "-D", f"{folder}/data", "-w", "-o", options, "-l", f"{folder}/log", "start")
        yield f"postgresql://bccp@127.0.0.1:{port}/postgres"
    finally:
        if (folder / "data" / "postmaster.pid").exists():
            command("pg_ctl", "-D", f"{folder}/data", "-m", "immediate", "stop")
        shutil.rmtree(folder)


HANDED_OUT = ["--artifacts-destination", "s3://bccp/handed-out"]
DIRECT = ["--no-serve-artifacts", "--default-artifact-root", "s3://bccp/direct"]


@pytest.mark.parametrize(
    ("database", "artifacts"),
    [
        ("sqlite", HANDED_OUT),
        pytest.param("sqlite", DIRECT, marks=pytest.mark.slow),
        pytest.param("postgresql", HANDED_OUT, marks=pytest.mark.slow),
    ],
)
def test_with_a_server_the_pipeline_does_what_it_does_with_the_local_store(
    home: Path,
    tmp_path: Path,
    s3: Any,
    image_folder: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    database: str,
    artifacts: list[str],
    empty_database: Path,
    request: pytest.FixtureRequest,
) -> None:
    whole = request.node.get_closest_marker("slow") is not None
    words = [
        *QUICK,
        *([] if whole else FIRST_TWO),
        "data.source=folder",
        "noisy_labels.source=simulated",
        f"data.path={image_folder({'ant': 24, 'bee': 24})}",
    ]
    (tmp_path / "server").mkdir()
    if artifacts == DIRECT:
        for name, value in {**KEYS, "MLFLOW_S3_ENDPOINT_URL": s3.meta.endpoint_url}.items():
            monkeypatch.setenv(name, value)
    here = bccp.run(words)
    shutil.copy(empty_database, tmp_path / "server" / "server.db")
    where = postgresql() if database == "postgresql" else nullcontext(f"sqlite:///{tmp_path}/server/server.db")
    with where as store, mlflow_server(tmp_path / "server", store, artifacts, s3) as (uri, _):
        with_password = uri.replace("//", "//ann:passw0rd@")
        monkeypatch.setenv("BCCP_HOME", str(tmp_path / "first"))
        first = bccp.run([*words, f"tracking.mlflow_uri='{with_password}'", "tracking.wandb=offline"])
        monkeypatch.setenv("MLFLOW_TRACKING_URI", with_password)
        assert [step["outputs"] for step in first["steps"]] == [step["outputs"] for step in here["steps"]]
        assert not (tmp_path / "first" / "artifacts").exists()
        assert not (tmp_path / "first" / "mlflow.db").exists()
        kept = s3.list_objects_v2(Bucket="bccp", Prefix=artifacts[-1].rpartition("/")[2])["Contents"]
        assert {"images.npy", "manifest.csv"} <= {item["Key"].rpartition("/")[2] for item in kept}

        monkeypatch.setenv("BCCP_HOME", str(tmp_path / "elsewhere"))  # as on another machine
        again = bccp.run(words)
        asked = [step["status"] for step in again["steps"] if step["status"] != "skipped"]
        assert asked == ["reused"] * (8 if whole else 2)
        ledger = Ledger(ledger_uri(None)[0])
        assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"passw0rd" in path.read_bytes()]
        if whole:
            # the environment has the password
            assert call(["export-data", "--simulated", f"--run={first['folder']}", f"--out={tmp_path / 'cleaned'}"]) == 0
        images = ledger.fetch(f"clean_data:{first['steps'][1]['outputs']['clean_data']}")
        assert images.is_relative_to(tmp_path / "elsewhere")

        left = ledger.start("left by a kill", tags={"bccp.started": "1"})
        far = ledger.start("far", tags={"bccp.host": "another-host", "bccp.started": "1"})
        mine = ledger.start("mine")
        assert ledger.close_orphaned_runs() == 1
        assert [ledger.client.get_run(run).info.status for run in (left, far, mine)] == ["KILLED", "RUNNING", "RUNNING"]


@pytest.mark.slow
def test_a_server_that_dies_in_the_middle_costs_one_sentence_and_the_next_run_goes_on_from_there(
    home: Path, tmp_path: Path, s3: Any, image_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*QUICK, *FIRST_TWO, "data.source=folder", "noisy_labels.source=simulated", f"data.path={image_folder({'ant': 24, 'bee': 24})}"]
    store, port, publish = f"sqlite:///{tmp_path}/server.db", free_port(), Ledger.publish
    with mlflow_server(tmp_path, store, HANDED_OUT, s3, port) as (uri, process):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)

        def dies(ledger: Ledger, run_id: str, name: str, folder: Path) -> tuple[str, Path]:
            if name == "clean_data":
                kill(process)
            return publish(ledger, run_id, name, folder)

        monkeypatch.setattr(Ledger, "publish", dies)
        with pytest.raises(BCCPError, match=f"the tracking server {uri} has stopped answering: start it and run again"):
            bccp.run(words)
        monkeypatch.setattr(Ledger, "publish", publish)
    assert not list((home / "tmp").iterdir())
    with mlflow_server(tmp_path, store, HANDED_OUT, s3, port):
        ledger = Ledger(uri)
        for run in ledger.client.search_runs([ledger.experiment_id], "attributes.status = 'RUNNING'"):
            assert run.data.tags["bccp.started"] == process_start(os.getpid())
            ledger.tag(run.info.run_id, {"bccp.started": "1"})  # as if this process were another by now
        summary = bccp.run(words)
        assert [step["status"] for step in summary["steps"][:2]] == ["reused", "ran"]
        statuses = [run.info.status for run in ledger.client.search_runs([ledger.experiment_id])]
        assert sorted(statuses) == ["FINISHED"] * 4 + ["KILLED"] * 2  # one of them read the sizes of the images


def _record(uri: str, home: str) -> None:
    os.environ["BCCP_HOME"] = home
    ledger = Ledger(uri)
    ledger.end(ledger.start("first use"), "FINISHED")


@pytest.mark.slow
def test_four_processes_may_use_a_new_postgresql_database_at_once_without_a_server(home: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    with postgresql() as uri:
        processes = [spawn.Process(target=_record, args=(uri, str(home))) for _ in range(4)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        assert [process.exitcode for process in processes] == [0, 0, 0, 0]
        ledger = Ledger(uri)
        assert [run.info.status for run in ledger.client.search_runs([ledger.experiment_id])] == ["FINISHED"] * 4


@pytest.mark.parametrize("scheme", ["http", "postgresql"])
def test_a_server_that_is_down_is_told_in_one_sentence_without_its_password(home: Path, scheme: str) -> None:
    uri = f"{scheme}://ann:secret@127.0.0.1:{free_port()}/x"
    with pytest.raises(BCCPError, match=f"the tracking server {scheme}://127.0.0.1:.* does not answer") as refused:
        Ledger(uri)
    assert "secret" not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_artifact_root_in_s3_without_boto3_is_refused_before_anything_runs(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(ledger_uri(None)[0])
    experiment = ledger.client.get_experiment(ledger.experiment_id)
    experiment._artifact_location = "s3://bccp/direct"
    monkeypatch.setattr("mlflow.tracking.MlflowClient.get_experiment_by_name", lambda client, name: experiment)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BCCPError, match="s3://bccp/direct, which needs the package boto3"):
        Ledger(ledger.uri)


@pytest.mark.filterwarnings("ignore")  # of MLflow's, about itself
def test_compose_starts_mlflow_with_postgresql_and_minio(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.cli import server

    text = (root / "compose.yaml").read_text()
    services = yaml.safe_load(text)["services"]
    assert set(services) == {"postgres", "minio", "bucket", "mlflow"}
    assert all(name in services for service in services.values() for name in service.get("depends_on", ()))
    assert [name for name, service in services.items() if "ports" in service] == ["mlflow"]
    pins = (root / "conda.yml").read_text() + (root / "constraints.txt").read_text()
    for pin in re.findall(r"(?:mlflow|psycopg2-binary)==\S+", services["mlflow"]["build"]["dockerfile_inline"]):
        assert pin in pins  # the team's server is the one that the tests ran
    for name, value in services["mlflow"]["environment"].items():
        monkeypatch.setenv(name, re.sub(r"\$\{\w+(:\?[^}]*|:-([^}]*))\}", r"\2", value))
    options = server.make_context("server", shlex.split(services["mlflow"]["command"])[2:]).params  # as MLflow itself reads them
    assert options["backend_store_uri"] == "postgresql://mlflow:@postgres/mlflow"
    assert options["artifacts_destination"] == "s3://mlflow/artifacts"
    assert options["serve_artifacts"] is True
    assert (options["host"], options["port"], options["allowed_hosts"]) == ("0.0.0.0", 5000, "*")
    assert not re.search(r"PASSWORD: (?!\$\{)", text)  # no password of ours
