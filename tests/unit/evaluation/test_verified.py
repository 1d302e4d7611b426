"""Verified test images: a split file puts random audits into the test, and an audit file says what they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bccp.data.segregation import Shares, find_given_split, segregate
from bccp.evaluation.verified import audited_tests


@pytest.fixture
def splits(tmp_path: Path) -> pd.DataFrame:
    """A Monday of three classes; of Tuesday's images two lie in class folders, eight have votes, and c is only tested."""
    rows = [(f"monday/{label}/{i}.png", label, "monday") for label in "abc" for i in range(5)]
    rows += [("tuesday/a/known.png", "a", "tuesday"), ("tuesday/c/known.png", "c", "tuesday")]
    votes = {f"tuesday/{i}.png": "ab"[i % 2] for i in range(8)}
    rows += [(image, "", "tuesday") for image in votes]
    manifest = pd.DataFrame(rows, columns=["image", "label", "day"]).assign(row=range(len(rows)))
    tested = {"tuesday/a/known.png", "tuesday/c/known.png", "tuesday/0.png", "tuesday/1.png", "tuesday/2.png"}
    file = tmp_path / "splits.csv"
    of_tuesday = manifest.loc[manifest["day"] == "tuesday", ["image"]].assign(split="train")
    of_tuesday.loc[of_tuesday["image"].isin(tested), "split"] = "test"
    of_tuesday.to_csv(file, index=False)
    shares = Shares(tuesday_fraction=0.5, test_size=0.2, val_size=0.25)
    cut = segregate(
        manifest,
        np.arange(len(manifest)),
        shares,
        target_day="tuesday",
        seed=0,
        named=votes.keys(),
        given=votes,
        split=find_given_split(manifest, file),
    )
    assert set(cut.splits.loc[(cut.splits["day"] == "tuesday") & (cut.splits["split"] == "test"), "image"]) == tested
    assert cut.true_labels["label"].tolist() == ["a", "c"]
    assert not cut.truth_known
    return cut.splits.set_index("image")


def test_random_audits_of_the_test_split_are_verified_and_no_others(splits: pd.DataFrame, tmp_path: Path) -> None:
    audit = tmp_path / "checked.csv"
    rows = [
        "tuesday/0.png,b,label,random",
        "tuesday/1.png,a,label,suspect",
        "tuesday/2.png,,unsure,random",
        "tuesday/3.png,a,label,random",  # in training
        "tuesday/4.png,,,random",
        "monday/a/0.png,b,label,random",
    ]
    audit.write_text("\n".join(["image,label,verdict,chosen", *rows]) + "\n", encoding="utf-8")
    found = audited_tests(audit, splits, target_day="tuesday", classes=["a", "b", "c"])
    assert found.labels == {"tuesday/0.png": "b"}
    assert found.not_random == {"tuesday/1.png"}
    assert found.n_unanswered == 2
