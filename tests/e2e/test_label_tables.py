"""Data sets whose labels are a table, as people download them: from the folder to the export, and what is printed is followed literally."""

from __future__ import annotations

import json
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

QUICK = ["preprocessing.image_size=16", "main.threads=1", "tracking.wandb=disabled"]
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
    summary = bccp.run([*QUICK, *data, *shlex.split(said)])
    place = tmp_path / "cleaned"
    export_dataset.export_run(str(place), "")
    exported = {path.relative_to(place).as_posix() for path in place.rglob("*.png")}
    wanted = {f"{row.split(',')[1]}/{row.split(',')[0]}.png" for row in (kaggle / "train.csv").read_text().splitlines()[1:]}
    assert exported == wanted
    listed = tables.read(place / "labels.csv")
    assert {Path(image).name for image in listed["image"]} == {Path(file).name for file in wanted}
    settings = summary["config"]
    assert (settings["noisy_labels"]["source"], settings["main"]["target_day"]) == ("folder", "monday")  # nothing is trusted


def test_a_flat_folder_and_what_an_annotation_tool_exports(home: Path, kaggle: Path, tmp_path: Path) -> None:
    (kaggle / "train.csv").unlink()
    tasks = [
        {
            "id": number,
            "data": {"image": f"/data/upload/2/{number:08x}-{path.name}"},
            "annotations": [
                {
                    "completed_by": who,
                    "result": [{"from_name": "c", "type": "choices", "value": {"choices": [("beagle", "boxer")[number % 2]]}}],
                }
                for who in (1, 2)
            ],
        }
        for number, path in enumerate(sorted((kaggle / "train").iterdir()))
    ]
    file = tmp_path / "project-2.json"
    file.write_text(json.dumps(tasks), encoding="utf-8")
    summary = bccp.run([*QUICK, "data.source=folder", f"data.path={kaggle}", f"noisy_labels.feedback_file={file}"])
    settings = summary["config"]
    assert (settings["noisy_labels"]["source"], settings["main"]["target_day"]) == ("file", "monday")
    export_dataset.export_run(str(tmp_path / "cleaned"), "")
    assert sorted(path.name for path in (tmp_path / "cleaned" / "beagle").iterdir()) == [f"{number:04x}.png" for number in range(0, 18, 2)]
