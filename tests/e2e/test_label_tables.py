"""Data sets whose labels are a table, as people download them: from the folder to the export, and what is printed is followed literally."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import bccp
from bccp.core.errors import BCCPError
from bccp.data import tables
from bccp.pipeline import export_dataset

MakeFolder = Callable[..., Path]

QUICK = ["preprocessing.image_size=16", "main.threads=1", "tracking.wandb=disabled", "main.target_day=monday", "noisy_labels.source=folder"]
QUICK += ["bayes_cutoff.enabled=false", "main.execute_steps=[fetch_data,preprocessing,segregation,noisy_labels,bayes_cutoff]"]


@pytest.fixture
def kaggle(image_folder: MakeFolder, tmp_path: Path) -> Path:
    """``train.csv`` and ``train/``, as of dog-breed-identification, with two columns that may hold the label."""
    source = image_folder({"beagle": 9, "boxer": 9})
    folder = tmp_path / "kaggle"
    (folder / "train").mkdir(parents=True)
    rows = []
    for number, path in enumerate(sorted(source.rglob("*.png"))):
        shutil.copy(path, folder / "train" / f"{number:04x}.png")
        rows.append(f"{number:04x},{path.parent.name},{number % 3}")
    (folder / "train.csv").write_text("\n".join(["id,class,target", *rows]) + "\n", encoding="utf-8")
    return folder


def test_from_a_table_to_the_export(home: Path, kaggle: Path, tmp_path: Path) -> None:
    data = ["data.source=folder", f"data.path={kaggle}"]
    with pytest.raises(BCCPError, match="several columns that may hold the label, 'class', 'target'") as caught:
        bccp.run([*QUICK, *data])
    (said,) = re.findall(r'"data\.columns=[^"]+"', str(caught.value))
    bccp.run([*QUICK, *data, *shlex.split(said)])
    place = tmp_path / "cleaned"
    export_dataset.export_run(str(place), "")
    exported = {path.relative_to(place).as_posix() for path in place.rglob("*.png")}
    wanted = {f"{row.split(',')[1]}/{row.split(',')[0]}.png" for row in (kaggle / "train.csv").read_text().splitlines()[1:]}
    assert exported == wanted
    listed = tables.read(place / "cleansed.csv")
    assert listed.loc[listed["action"] == "left_out", "image"].tolist() == ["train.csv"]
