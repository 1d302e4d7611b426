"""A whole pipeline, with a registered model and a cleaned folder, forgets an image and a user; the home is searched for each trace."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import bccp
from bccp.cli.app import call
from bccp.serving.forgetting.forget import forget_image, forget_user
from support.home_search import places_with
from support.pictures import write_images
from support.served_records import digest

NAME, USER = "holiday-4711", "Ann O'Neill"

SETTINGS = ("main.threads=1", "tracking.wandb=disabled", "data.source=folder", "preprocessing.image_size=16", "train.augment_to=60")
SHORT = ("bayes_cutoff.epochs=2", "bayes_cutoff.refine_epochs=1", "train.epochs=2", "test.bootstrap=0", "test.registered_model_name=pets")


def images_of(tmp_path: Path) -> tuple[Path, Path]:
    """Images of two days, and votes of two users on Tuesday's."""
    folder = write_images(tmp_path / "images", {"monday/cat": 12, "monday/dog": 12, "tuesday/cat": 8, "tuesday/dog": 8})
    (folder / "monday" / "cat" / "003.png").rename(folder / "monday" / "cat" / f"{NAME}.png")
    rows = [f"{path.relative_to(folder)},{path.parent.name},{user}\n" for path in folder.glob("tuesday/*/*") for user in (USER, "bob")]
    votes = tmp_path / "votes.csv"
    votes.write_text("image,label,user\n" + "".join(rows))
    return folder, votes


@pytest.mark.slow
def test_nothing_of_an_image_or_a_user_is_left_but_the_weights_of_registered_models(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, votes = images_of(tmp_path)
    image = folder / "monday" / "cat" / f"{NAME}.png"
    bccp.run([*SETTINGS, *SHORT, f"data.path={folder}", f"noisy_labels.feedback_file={votes}"])
    assert call(["clean", str(folder / "monday"), "--out", str(home / "cleaned"), "preprocessing.image_size=16", "main.threads=1"]) == 0
    assert call(["export-data", "--out", str(home / "exported"), "--format", "webdataset"]) == 0
    capsys.readouterr()
    pixels = np.asarray(Image.open(image).convert("RGB"))
    of_image = (image.read_bytes(), digest(image.read_bytes()).encode(), NAME.encode(), pixels[4].tobytes()[:24])
    assert {name.partition("/")[0] for name in places_with(home, *of_image)} == {"artifacts", "cleaned", "exported", "outputs"}

    of_user = forget_user(USER, purge=True)
    assert ("models:/pets/1", "stays") in {(place.where, place.fate) for place in of_user.places}
    assert places_with(home, USER.encode(), json.dumps(USER)[1:-1].encode()) == set()
    assert places_with(home, *of_image) != set()
    of_image_found = forget_image(str(image), purge=True)
    assert ("models:/pets/1", "stays") in {(place.where, place.fate) for place in of_image_found.places}
    assert places_with(home, *of_image) == set()

    assert call(["predict", "--model", "models:/pets/1", "--images", str(folder / "monday" / "dog"), "--out", str(tmp_path / "p.csv")]) == 0
    image.unlink()
    others = [line for line in votes.read_text().splitlines() if USER not in line]
    (tmp_path / "others.csv").write_text("\n".join(others) + "\n")
    first = "main.execute_steps=[fetch_data,preprocessing,segregation,noisy_labels]"
    again = bccp.run([*SETTINGS, *SHORT, first, f"data.path={folder}", f"noisy_labels.feedback_file={tmp_path / 'others.csv'}"])
    assert [step["status"] for step in again["steps"]][:4] == ["ran"] * 4
    assert places_with(home, *of_image, USER.encode()) == set()
