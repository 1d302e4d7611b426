"""`bccp forget`: every place that holds an image or names a user is named, and holds nothing any more where asked to."""

from __future__ import annotations

import json
import shlex
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import bccp
from bccp.cli.app import call
from bccp.core.errors import BCCPError
from bccp.core.home import PLACES
from bccp.core.runtime.wandb_import import import_wandb
from bccp.data import tables
from bccp.models import mlflow_flavor
from bccp.serving import user_names
from bccp.serving.forgetting.forget import forget_image, forget_user
from bccp.serving.store import feedback, opening, predictions
from bccp.tracking import registry
from support.home_search import places_with
from support.pictures import write_images
from support.served_records import answered, digest, vote
from support.stub_steps import all_runs, ledger
from support.wandb_stand_in import WandbStandIn

STEPS = "main.execute_steps=[fetch_data,preprocessing,segregation,noisy_labels]"
SETTINGS = ("main.threads=1", "preprocessing.image_size=16", "data.source=folder")
NAME = "holiday-4711"
"""What the image is called, whose picture nobody else has."""

ANN = "Ann O'Neill"
"""The user."""


def photos(folder: Path) -> Path:
    """Images of two days; one of Tuesday's is to be forgotten."""
    write_images(folder, {"monday/cat": 6, "monday/dog": 6, "tuesday/cat": 4, "tuesday/dog": 4})
    (folder / "tuesday" / "cat" / "001.png").rename(folder / "tuesday" / "cat" / f"{NAME}.png")
    return folder


def answers(folder: Path, *, users: tuple[str, ...] = (ANN, "bob", "cat")) -> Path:
    """A feedback file about Tuesday's images; a user is called as a class is."""
    file = folder.with_suffix(".csv")
    images = sorted(path.relative_to(folder).as_posix() for path in folder.glob("tuesday/*/*"))
    rows = [
        f"{image},{'cat' if (row + number) % 3 else 'dog'},{user}" for row, image in enumerate(images) for number, user in enumerate(users)
    ]
    file.write_text("\n".join(["image,label,user", *rows]) + "\n")
    return file


def run(folder: Path, feedback_file: Path, *options: str) -> dict[str, Any]:
    return bccp.run([*SETTINGS, STEPS, f"data.path={folder}", f"noisy_labels.feedback_file={feedback_file}", *options])


def pixels_of(path: Path) -> bytes:
    """Pixels as arrays hold them: half a row of them is like no other image's."""
    return np.asarray(Image.open(path).convert("RGB"))[4].tobytes()[:24]


def service(data: bytes, other: bytes) -> None:
    """A store in which two users have labelled two images."""
    store = opening.open_store(None)
    key = user_names.user_key("BCCP_USER_KEY")
    try:
        for one in (data, other):
            store.images.put(digest(one), one)
            predictions.record(store, [answered(one), answered(one)])
        feedback.add(store, replace(vote(data), user_id=user_names.hashed(ANN, key), idempotency_key="1"))
        feedback.add(store, replace(vote(data), user_id=user_names.hashed(ANN, key), idempotency_key="2"))
        feedback.add(store, replace(vote(other), user_id=user_names.hashed("bob", key)))
    finally:
        store.close()


def rows() -> dict[str, int]:
    """Rows of the service's store by table."""
    store = opening.open_store(None, create=False)
    try:
        with store.reading() as connection:
            return {
                name: connection.exec_driver_sql(f"select count(*) from {name}").scalar_one()
                for name in ("image", "prediction", "feedback")
            }
    finally:
        store.close()


def accept_batches(image: Path) -> None:
    """Three accepted batches, each joined with those before: some images and a copy of the one, another copy alone, and other images."""
    for number, n_images in enumerate((3, 0, 3)):
        folder = write_images(image.parents[3] / f"new{number}", {"cat": n_images, "dog": n_images}, seed=number + 1)
        if number < 2:
            shutil.copy(image, folder / "cat" / f"copy{number}-of-{NAME}.png")
        assert call(["check-new", "--data", str(folder), "--accept", "preprocessing.allow_lost_classes=true"]) == 0


@dataclass(frozen=True)
class Lived:
    """A home in which there is much: a pipeline with votes, W&B's records of it, batches, a service, a download and a copy.

    Attributes
    ----------
    home, folder, image : Path
        The home, the user's images, and the one among them that is to be forgotten.
    other : bytes
        Another image, which the service has too.
    """

    home: Path
    folder: Path
    image: Path
    other: bytes

    @property
    def of_image(self) -> tuple[bytes, ...]:
        """Bytes that tell of the image wherever they are."""
        data = self.image.read_bytes()
        return data, data[40:80], digest(data).encode(), NAME.encode(), pixels_of(self.image)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Lived:
    """Such a home, made once."""
    place = tmp_path_factory.mktemp("lived")
    home = place / "home"
    home.mkdir()
    shutil.copy(empty_database, home / "mlflow.db")
    folder = photos(place / "images")
    image = folder / "tuesday" / "cat" / f"{NAME}.png"
    other = (folder / "tuesday" / "dog" / "000.png").read_bytes()
    with pytest.MonkeyPatch.context() as patched:
        for name, below in PLACES.items():
            patched.setenv(name, str(home / below))
        for name in ("WANDB_API_KEY", "WANDB_MODE", "MLFLOW_TRACKING_URI"):
            patched.delenv(name, raising=False)
        patched.setenv("NETRC", str(home / "no-netrc"))
        patched.setenv("BCCP_HOME", str(home))
        import_wandb().teardown()
        run(folder, answers(folder), "tracking.wandb=offline")
        service(image.read_bytes(), other)
        accept_batches(image)
        import_wandb().teardown()
    (home / "data").mkdir(exist_ok=True)
    with tarfile.open(home / "data" / ("0" * 32), "w:gz") as packed:
        packed.add(folder, "photos")
    shutil.copy(image, home / "a copy.jpg")
    return Lived(home, folder, image, other)


@pytest.fixture
def lived(made: Lived, bare_home: Path) -> Lived:
    """The same, in a place of this test's own."""
    bare_home.rmdir()
    shutil.copytree(made.home, bare_home, symlinks=True)
    return replace(made, home=bare_home)


def test_an_image_is_nowhere_in_the_home_any_more(lived: Lived, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home, image, needles = lived.home, lived.image, lived.of_image
    sha256 = digest(image.read_bytes())
    before = places_with(home, *needles)
    assert len(before) > 20
    assert call(["forget", "--image", str(image), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert not said["purged"]
    assert places_with(home, *needles) == before
    where = [place["where"] for place in said["places"] if place["fate"] != "is yours"]
    unnamed = {name for name in before if not any((home / name.partition("!")[0]).is_relative_to(place) for place in where)}
    assert {name.partition("/")[0] for name in unnamed} == {"serving"}  # named by its database
    kinds = {place["kind"] for place in said["places"]}
    assert kinds == {"artifacts", "run folder", "incoming batch", "store of the service", "W&B record", "W&B's staged and cached files",
                     "download", "file", "file of your own"}  # fmt: skip
    assert [place["where"] for place in said["places"] if place["fate"] == "is yours"] == [str(image)]

    assert call(["forget", "--image", sha256, "--purge"]) == 0
    assert "the next run makes anew what it needs" in capsys.readouterr().out
    assert places_with(home, *needles) == set()
    assert rows() == {"image": 1, "prediction": 2, "feedback": 1}
    assert call(["forget", "--image", sha256]) == 0
    assert capsys.readouterr().out == f"nothing in {home} holds the image {sha256[:12]}\n"

    # what is left works: the batch that was joined last can be trained on, and is the next one's reference
    batches = [(json.loads(path.read_text()), path.parent) for path in (home / "incoming").glob("*/batch.json")]
    batches.sort(key=lambda batch: batch[0]["accepted"])
    assert [about["status"] for about, _ in batches] == ["accepted", "emptied", "accepted"]
    assert [len(tables.read(place / "clean_data" / "manifest.csv")) for _, place in batches] == [6, 0, 6]
    assert [len(np.load(place / "clean_data" / "images.npy")) for _, place in batches] == [6, 0, 6]
    assert [len(zipfile.ZipFile(place / "data.zip").namelist()) for _, place in batches] == [19 + 6, 19 + 6, 19 + 6 + 6]
    assert call(["accept", batches[-1][1].name]) == 0
    options = shlex.split(capsys.readouterr().out.splitlines()[-1])[2:]
    bccp.run([*(option for option in options if not option.startswith("tracking.")), "tracking.wandb=disabled", STEPS])
    assert call(["check-new", "--data", str(write_images(tmp_path / "new3", {"cat": 3, "dog": 3}, seed=7))]) == 0


def test_a_user_is_nowhere_in_the_home_any_more_and_all_that_others_said_is(lived: Lived) -> None:
    home = lived.home
    hashed = user_names.hashed(ANN, user_names.user_key("BCCP_USER_KEY"))
    needles = (ANN.encode(), hashed.encode())
    assert {name.partition("/")[0] for name in places_with(home, *needles)} >= {"artifacts", "incoming", "serving"}
    done = forget_user(ANN, purge=True)
    assert [place.where for place in done.places if place.fate == "is yours"] == [str(lived.folder.with_suffix(".csv"))]
    assert places_with(home, *needles) == set()
    assert places_with(home, b"bob") != set()
    assert rows() == {"image": 2, "prediction": 4, "feedback": 1}
    assert done.images == [digest(lived.image.read_bytes())]
    outputs = {name for run in all_runs(ledger()) for name in run.data.tags if name.startswith("bccp.output.")}
    assert outputs == {"bccp.output.raw_data", "bccp.output.clean_data", "bccp.output.image_sizes"}  # in which nobody is named
    assert forget_user(ANN, purge=False).places == []


def test_a_user_who_is_called_as_a_class_is_costs_no_more_than_another(lived: Lived) -> None:
    found = [{place.where for place in forget_user(name, purge=False).places if place.kind == "artifacts"} for name in ("cat", "bob")]
    assert found[0] == found[1]


class Killed(BaseException):
    """Nothing catches it, as nothing catches SIGKILL."""


def test_a_purge_that_is_killed_anywhere_can_be_repeated(lived: Lived, monkeypatch: pytest.MonkeyPatch) -> None:
    needles, sha256 = lived.of_image, digest(lived.image.read_bytes())
    n_kills, left = 0, 1

    def dying(move: Callable[[Path, Path], Path]) -> Callable[[Path, Path], Path]:
        def move_or_die(path: Path, target: Path) -> Path:
            nonlocal left
            left -= 1
            if not left:
                raise Killed
            return move(path, target)

        return move_or_die

    for name in ("rename", "replace"):
        monkeypatch.setattr(Path, name, dying(getattr(Path, name)))
    for _ in range(50):
        left = 6
        try:
            forget_image(sha256, purge=True)
            break
        except Killed:
            n_kills += 1
    assert n_kills > 5
    assert places_with(lived.home, *needles) == set()


def test_models_that_were_trained_on_it_are_named_and_keep_their_weights(lived: Lived) -> None:
    store = ledger()
    manifest = tables.read(store.fetch(f"clean_data:{version_of(store, 'clean_data')}") / "manifest.csv")
    seen = mlflow_flavor.fingerprints(manifest["sha256"])

    def write(place: Path) -> None:
        place.mkdir()
        np.save(place / mlflow_flavor.TRAINED_ON, seen)
        (place / "model.pt").write_bytes(b"weights")

    elsewhere = store.start("trained on the same images by another pipeline")
    registered = registry.register(store, "pets", "f" * 64, run_id=elsewhere, write=write)
    store.end(elsewhere, "FINISHED")
    done = forget_image(str(lived.image), purge=True)
    assert [(place.where, place.fate) for place in done.places if place.kind == "registered model"] == [("models:/pets/1", "stays")]
    kept = Path(registered.source.removeprefix("file://"))
    assert (kept / "model.pt").read_bytes() == b"weights"
    own = mlflow_flavor.fingerprints(manifest.loc[manifest["image"].str.contains(NAME), "sha256"])
    assert set(np.load(kept / mlflow_flavor.TRAINED_ON)) == set(seen) - set(own)
    assert "bccp.forgotten" in store.client.get_model_version("pets", "1").tags
    assert store.client.get_run(elsewhere).info.lifecycle_stage == "active"


@pytest.mark.slow
def test_what_w_and_b_has_goes_too_and_is_named_where_it_cannot_be_asked(
    server: WandbStandIn, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = photos(tmp_path / "images")
    image = folder / "tuesday" / "cat" / f"{NAME}.png"
    run(folder, answers(folder), "tracking.wandb=online")
    assert len(server.artifacts) > 3
    with monkeypatch.context() as patched:
        patched.delenv("WANDB_API_KEY")
        (place,) = (place for place in forget_image(str(image), purge=False).places if place.kind == "W&B")
        assert place.fate == "is yours"
        assert "raw_data:d-" in place.note
    server.status = 500
    with pytest.raises(BCCPError, match="W&B does not answer"):
        forget_image(str(image), purge=True)
    server.status = None
    assert places_with(home, image.read_bytes()) != set()
    done = forget_image(str(image), purge=True)
    assert {place.kind for place in done.places} >= {"artifact on W&B", "run on W&B"}
    assert server.artifacts == []
    assert server.runs == {}


def test_what_cannot_be_done_is_said_in_one_sentence(lived: Lived, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["forget"]) == 2
    assert call(["forget", "--image", "0" * 64, "--user", ANN]) == 2
    assert "give either --user or --image" in capsys.readouterr().err
    with pytest.raises(BCCPError, match="neither a SHA-256"):
        forget_image("nothing.jpg", purge=False)
    with pytest.raises(BCCPError, match="--user is empty"):
        forget_user(" ", purge=False)
    store = ledger()
    going_on = store.start("a step", tags={"bccp.input.raw_data": version_of(store, "raw_data")})
    with pytest.raises(BCCPError, match="the run a step goes on"):
        forget_image(str(lived.image), purge=True)
    assert places_with(lived.home, lived.image.read_bytes()) != set()
    store.end(going_on, "FAILED")


def test_looking_for_somebody_leaves_nothing_behind(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["forget", "--user", ANN]) == 0
    assert capsys.readouterr().out == f"nothing in {home} holds the user {ANN!r}\n"
    assert not (home / "serving").exists()  # neither key nor store


def version_of(store: Any, name: str) -> str:
    return next(run.data.tags[f"bccp.output.{name}"] for run in all_runs(store) if f"bccp.output.{name}" in run.data.tags)
