"""Other servers of models: environments of their own, and how each is started and asked.

An environment lies over the one that runs the benchmark, so that all have the same PyTorch, Pillow and FastAPI; only what a rival needs
beside them is installed, by pip from the registry that it is set up with.
"""

from __future__ import annotations

import json
import site
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from bccp.core.paths import ROOT
from benchmarks.serving.load import Form, multipart
from benchmarks.serving.made_models import NAME, Made
from benchmarks.serving.processes import Server, free_port, started
from benchmarks.serving.rival_model import FOLDER

PACKAGES = {"LitServe": "litserve==0.2.19", "BentoML": "bentoml==1.4.40"}
"""What is installed; `mlflow models serve` is of the project's own MLflow."""


@dataclass(frozen=True)
class Rival:
    """A server to compare with.

    Attributes
    ----------
    name : str
    forms : mapping of str to Form
        Ways to send a picture: ``base64``, and ``raw`` where there is one.
    ready : str
        A path that answers 200 once the server is ready.
    """

    name: str
    forms: Mapping[str, Form]
    ready: str


def in_json(path: str, before: str, after: str) -> Form:
    """Base64 text in JSON."""
    return Form(path, "application/json", before.encode(), after.encode(), base64=True)


RIVALS = {
    "LitServe": Rival("LitServe", {"base64": in_json("/predict", '{"image": "', '"}'), "raw": Form("/raw", "image/png")}, "/health"),
    "BentoML": Rival("BentoML", {"base64": in_json("/predict", '{"images": ["', '"]}'), "raw": multipart("/raw", "images")}, "/readyz"),
    "mlflow models serve": Rival(
        "mlflow models serve",
        {"base64": in_json("/invocations", '{"dataframe_split": {"columns": ["image"], "data": [["', '"]]}}')},
        "/ping",
    ),
}


def environment(name: str, cache: Path) -> Path | str:
    """The Python of a rival's environment, made where it is missing; or why there is none.

    Parameters
    ----------
    name : str
        Of :data:`PACKAGES`.
    cache : Path
        A folder that keeps environments for the next time.
    """
    cache.mkdir(parents=True, exist_ok=True)
    package = PACKAGES[name]
    folder = cache / f"{package}-{sys.version_info.major}.{sys.version_info.minor}"
    python, ready = folder / "bin" / "python", folder / "ready.json"
    below = [str(Path(place)) for place in site.getsitepackages()]
    with FileLock(f"{folder}.lock"):
        if ready.is_file() and json.loads(ready.read_text(encoding="utf-8")) == below:
            return python
        ready.unlink(missing_ok=True)
        made = _run([sys.executable, "-m", "venv", "--without-pip", "--clear", str(folder)])
        if made is None:
            (own,) = folder.glob("lib/python*/site-packages")
            (own / "project.pth").write_text("".join(f"import site; site.addsitedir({place!r})\n" for place in below), encoding="utf-8")
            constraints = ["--constraint", str(ROOT / "constraints.txt")]
            made = _run([str(python), "-m", "pip", "install", "--quiet", package, *constraints])
        if made is None:
            made = _run([str(python), "-c", f"import {package.partition('=')[0]}"])
        if made is not None:
            return made
        ready.write_text(json.dumps(below), encoding="utf-8")
        return python


def _run(command: list[str]) -> str | None:
    """The last line of a command's errors; None where it succeeds."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1800)
    if done.returncode == 0:
        return None
    said = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("WARNING")]
    return said[-1].strip() if said else f"exit status {done.returncode}"


@contextmanager
def serving(name: str, made: Made, model: Path, *, cache: Path, folder: Path) -> Iterator[Server]:
    """A rival that answers.

    Parameters
    ----------
    name : str
        Of :data:`RIVALS`.
    made : Made
        The first version in its registry is the model of `mlflow models serve`.
    model : Path
        The folder of the model that the others hold.
    cache, folder : Path
        Of environments; of logs.

    Raises
    ------
    RuntimeError
        If it cannot be installed, or does not come up; the message says why.
    """
    port = free_port()
    with started(name, _command(name, made, port, cache), port=port, environment=_environment(made, model), folder=folder) as server:
        server.wait(RIVALS[name].ready, every=0.05)
        yield server


def _command(name: str, made: Made, port: int, cache: Path) -> list[str]:
    here = Path(__file__).parent
    if name == "mlflow models serve":
        model = f"models:/{NAME}/{made.versions[0]}"  # the one that is packed for it
        words = ["models", "serve", "-m", model, "--env-manager=local", "--host", "127.0.0.1", "--port", str(port)]
        return [sys.executable, "-m", "mlflow", *words]
    python = environment(name, cache)
    if isinstance(python, str):
        raise RuntimeError(f"{PACKAGES[name]} could not be installed ({python})")
    if name == "LitServe":
        return [str(python), str(here / "litserve_app.py"), str(port)]
    words = ["serve", "benchmarks.serving.bentoml_app:Classifier", "--host", "127.0.0.1", "--port", str(port)]
    return [str(python), "-m", "bentoml", *words, "--working-dir", str(ROOT)]


def _environment(made: Made, model: Path) -> dict[str, str]:
    """One thread for each worker's model, as ours has; no usage data."""
    quiet = {
        "BENTOML_DO_NOT_TRACK": "True",
        "LITSERVE_DISABLE_TELEMETRY": "1",
        "OMP_NUM_THREADS": "1",
        "BENTOML_HOME": str(made.home / "bentoml"),
    }
    return made.environment(PYTHONPATH=f"{ROOT / 'src'}:{ROOT}", **{FOLDER: str(model)}, **quiet)
