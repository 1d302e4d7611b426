"""The page on which labels are checked, from what a run has left: its report on labels, its pictures and what it links to."""

from __future__ import annotations

import base64
import io
import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bccp.core.errors import BCCPError
from bccp.data import tables
from bccp.data.folder_checks import FolderCheck, FolderChecks
from bccp.reporting.folder_checks_page import folder_checks_for_run
from bccp.reporting.suspects_page import pages_for_run
from support.html_page import Page
from support.judged_data import make_data

NAMES = ["raw_data", "clean_data", "segregated_data", "cleansed_labels"]


class Run:
    """A finished run: its folder, and a ledger with what its steps have made of 36 doubted images of 40 x 20 px, and of 54 trusted ones."""

    def __init__(self, place: Path, finding: Mapping[str, Any] | None) -> None:
        self.places = make_data(place / "made") | {name: place / "made" / name for name in ("raw_data", "cleansed_labels")}
        for name in ("raw_data", "cleansed_labels"):
            self.places[name].mkdir()
        splits = tables.read(self.places["segregated_data"] / "splits.csv")
        self.trusted = splits.loc[splits["label"] != "", "image"].tolist()
        self.doubted = sorted(splits.loc[splits["label"] == "", "image"])
        (self.places["clean_data"] / "report.json").write_text(json.dumps({"range": {"integer": [0, 1000]}}), encoding="utf-8")
        with zipfile.ZipFile(self.places["raw_data"] / "images.zip", "w") as packed:
            for image in splits["image"]:
                stream = io.BytesIO()
                Image.fromarray(np.full((20, 40), 1000, np.uint16)).save(stream, "PNG")  # the white of this set, and dark by itself
                packed.writestr(image, stream.getvalue() if image != self.doubted[0] else b"no image")
        given = tables.read(self.places["given_labels"] / "given_labels.csv").set_index("image")["label"]
        report = pd.DataFrame({"image": self.doubted, "label": "", "chosen": "", "given_label": given[self.doubted].to_numpy()})
        report["p_wrong"] = [f"{0.9 - n / 40:.6f}" for n in range(36)]
        report = report.assign(suggested_label="a", posterior="0.800000", user="", nearest_trusted=self.trusted[0], rank=range(1, 37))
        report.loc[30:, "chosen"] = "random"
        tables.write(report, self.places["cleansed_labels"] / "label_report.csv")
        about = {"method": "label_posterior"} | ({"finding": dict(finding)} if finding else {})
        (self.places["cleansed_labels"] / "cutoff.json").write_text(json.dumps(about), encoding="utf-8")
        self.folder = place / "run"
        self.folder.mkdir()
        summary = {"status": "finished", "steps": [{"outputs": dict.fromkeys(NAMES, "1")}], "config": {"data": {"source": "digits"}}}
        (self.folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
        self.ledger: Any = SimpleNamespace(fetch=self._fetch)

    def _fetch(self, version: str) -> Path:
        place = self.places[version.partition(":")[0]]
        if not place.exists():
            raise BCCPError(f"{version} is not there")
        return place


FINDING = {"verdict": "found", "at_least": 0.1, "at_most": None, "n_images": 36, "n_surely": 1, "n_audited": 0, "n_unsure": 0}
FINDING |= {"n_no_class": 0, "trusted": True}


def facts(path: Path) -> Any:
    """What the page's script is given."""
    (text,) = re.findall(r'<script type="application/json" id="facts">(.*?)</script>', path.read_text(encoding="utf-8"))
    return json.loads(text)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run that has judged labels beside trusted images."""
    return Run(tmp_path, FINDING)


def test_where_images_are_trusted_suspects_stand_beside_the_nearest_of_them(run: Run) -> None:
    path = pages_for_run(run.folder, run.ledger)
    assert path == run.folder / "suspects.html"
    told = facts(path)
    assert [row["rank"] for row in told["rows"] if row["chosen"] == "suspect"] == [1, 2, 3, 4]  # 10% of 36
    assert sum(row["chosen"] == "random" for row in told["rows"]) == 6
    (near,) = told["rows"][0]["near"]
    label = tables.read(run.places["segregated_data"] / "splits.csv").set_index("image")["label"]
    assert (near["image"], near["label"], near["role"]) == (run.trusted[0], label[run.trusted[0]], "trusted")
    assert told["rows"][0]["picture"] == -1  # its file is no image
    assert told["pictures"] == [[40, 20]] * len(told["pictures"])  # the originals, and not the squares that were judged
    pictures = re.findall(r'id="picture-\d+">(.*?)</script>', path.read_text(encoding="utf-8"))
    assert len(told["pictures"]) == len(pictures) == 10
    assert {Image.open(io.BytesIO(base64.b64decode(data))).getpixel((20, 10)) for data in pictures} == {(255, 255, 255)}
    assert "href" not in path.read_text(encoding="utf-8").partition("<main>")[0]  # nothing to link to


def test_neighbours_list_and_report_are_used_where_they_are(run: Run, tmp_path: Path) -> None:
    suspects = run.doubted[:4]
    neighbours = {"image": suspects, "nearest_suggested": run.doubted[20], "nearest_given": ["", *run.doubted[21:24]], "group": suspects[0]}
    tables.write(pd.DataFrame(neighbours), run.places["cleansed_labels"] / "neighbours.csv")
    (run.folder / "report.html").write_text("report", encoding="utf-8")
    out = tmp_path / "out"
    out.mkdir()
    tables.write(pd.DataFrame({"image": run.doubted, "file": [f"images/a b/{image}" for image in run.doubted]}), out / "labels.csv")
    path = pages_for_run(run.folder, run.ledger, into=out)
    assert path == out / "suspects.html"
    told = {row["image"]: row for row in facts(path)["rows"]}
    assert {told[image]["group"] for image in suspects} == {suspects[0]}
    assert {row["group"] for image, row in told.items() if image not in suspects} == {""}
    assert [near["role"] for near in told[suspects[1]]["near"]] == (["suggested", "given"] if told[suspects[1]]["given"] else ["given"])
    assert told[suspects[1]]["href"] == f"images/a%20b/{suspects[1]}"
    assert told[suspects[1]]["near"][-1]["href"] == f"images/a%20b/{run.doubted[21]}"
    text = path.read_text(encoding="utf-8")
    assert 'href="labels.csv"' in text
    assert f'href="{(run.folder / "report.html").resolve().as_uri()}"' in text


def test_images_of_a_folder_are_linked_where_they_lie(run: Run, tmp_path: Path) -> None:
    summary = json.loads((run.folder / "summary.json").read_text(encoding="utf-8"))
    summary["config"]["data"] = {"source": "folder", "path": str(tmp_path / "my images")}
    (run.folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    (tmp_path / "my images").mkdir()
    for image in [*run.trusted, *run.doubted]:
        (tmp_path / "my images" / image).touch()
    (row, *_) = facts(pages_for_run(run.folder, run.ledger) or tmp_path)["rows"]
    assert row["href"] == (tmp_path / "my images" / row["image"]).as_uri()


def test_where_the_files_are_gone_the_pictures_that_were_judged_are_shown(run: Run, tmp_path: Path) -> None:
    run.places["raw_data"] = tmp_path / "gone"
    path = pages_for_run(run.folder, run.ledger)
    assert path is not None
    assert {tuple(size) for size in facts(path)["pictures"]} == {(16, 16)}


def test_a_run_that_has_judged_nothing_gets_no_page(tmp_path: Path) -> None:
    run = Run(tmp_path, None)
    assert pages_for_run(run.folder, run.ledger) is None
    assert {path.name for path in run.folder.iterdir()} == {"summary.json"}


def test_what_else_the_folder_hides_has_a_page_of_its_own_and_each_links_to_the_other(run: Run, tmp_path: Path) -> None:
    assert folder_checks_for_run(run.folder, run.ledger) is None  # no features, no checks
    rows = [("farthest", 0, 1, run.doubted[1], "a", "3.1"), ("dark", 0, 1, run.doubted[0], "a", "1")]
    checks = (FolderCheck("outliers", 0, "no image stands out"), FolderCheck("dark", 1, "1 image is dark"))
    table = pd.DataFrame(rows, columns=["check", "group", "rank", "image", "label", "value"])
    FolderChecks(36, 36, checks, table).write(run.places["cleansed_labels"])
    out = tmp_path / "out"
    out.mkdir()
    path = folder_checks_for_run(run.folder, run.ledger, into=out)
    assert path == out / "checks.html"
    page = Page(path)
    assert "36 images, 36 of them different. Found: dark pictures." in page.text
    assert "no picture" in page.text  # its file is no image
    (picture,) = [address for address in page.addresses if address.startswith("data:")]
    assert Image.open(io.BytesIO(base64.b64decode(picture.partition(",")[2]))).size == (40, 20)
    assert "suspects.html" in page.addresses
    assert 'href="checks.html"' in (pages_for_run(run.folder, run.ledger, into=out) or path).read_text(encoding="utf-8")
