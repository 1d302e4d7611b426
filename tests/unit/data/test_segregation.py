"""Days and splits: exact shares, nothing across a boundary, nothing that depends on the order."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bccp.core.errors import BCCPError
from bccp.data import corruption, segregation
from bccp.data.segregation import Segregated, Shares, find_given_split, segregate
from support.manifests import manifest

SHARES = Shares(tuesday_fraction=0.5, test_size=0.2, val_size=0.25)


def own_days(monday: Mapping[str, int], tuesday: Mapping[str, int], *, loose: int = 0) -> pd.DataFrame:
    parts = [manifest(monday, day="monday", prefix="monday/"), manifest(tuesday, day="tuesday", prefix="tuesday/")]
    ids = [f"tuesday/{i:03d}.png" for i in range(loose)]
    parts.append(pd.DataFrame({"image": ids, "row": 0, "label": "", "day": "tuesday"}))
    return pd.concat(parts, ignore_index=True).assign(row=lambda table: range(len(table)))


def cut(table: pd.DataFrame, groups: Sequence[int] | None = None, **options: Any) -> Segregated:
    options = {"shares": SHARES, "target_day": "tuesday", "seed": 0} | options
    return segregate(table, np.arange(len(table)) if groups is None else groups, **options)


def sizes(result: Segregated) -> dict[tuple[str, str], int]:
    return result.splits.groupby(["day", "split"]).size().to_dict()


def places(result: Segregated) -> dict[str, tuple[str, str]]:
    return {r.image: (r.day, r.split) for r in result.splits.itertuples()}


def test_every_class_gets_its_share_of_every_split() -> None:
    counts = {"a": 183, "b": 77, "c": 30, "d": 11}
    shares = Shares(tuesday_fraction=0.3, test_size=0.2, val_size=0.25)
    table = manifest(counts)
    result = cut(table, shares=shares)
    assert sorted(result.splits["image"]) == sorted(table["image"])
    found = result.splits.assign(of=result.splits["image"].str.split("/").str[0]).groupby(["of", "day", "split"]).size()
    for label, n in counts.items():
        of = found[label]
        n_tuesday = of["tuesday"].sum()
        assert abs(n_tuesday - 0.3 * n) < 1
        assert abs(of["tuesday", "test"] - 0.2 * n_tuesday) < 1
        assert abs(of["monday", "test"] - 0.2 * (n - n_tuesday)) < 1
        assert abs(of["monday", "val"] - 0.25 * (n - n_tuesday - of["monday", "test"])) < 1
    n = sum(counts.values())
    total = sizes(result)
    n_tuesday = total["tuesday", "train"] + total["tuesday", "test"]
    assert n_tuesday == round(0.3 * n)
    assert total["tuesday", "test"] == round(0.2 * n_tuesday)
    assert total["monday", "test"] == round(0.2 * (n - n_tuesday))
    assert total["monday", "val"] == round(0.25 * (n - n_tuesday - total["monday", "test"]))
    assert result.classes == ["a", "b", "c", "d"]
    assert result.cut_here


def test_apportion_rounds_each_class_by_less_than_one_and_the_sum_exactly() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        counts, share = rng.integers(5, 60, rng.integers(2, 12)), rng.uniform(0.1, 0.9)
        quotas = segregation.apportion(counts, share, low=0, left=0)
        assert quotas.sum() == np.floor(share * counts.sum() + 0.5)
        assert (np.abs(quotas - share * counts) < 1).all()


def test_apportion_keeps_to_its_bounds() -> None:
    np.testing.assert_array_equal(segregation.apportion(np.array([5, 100]), 0.9, low=2, left=3), [2, 93])
    np.testing.assert_array_equal(segregation.apportion(np.array([5, 100]), 0.02, low=2, left=3), [2, 2])
    np.testing.assert_array_equal(segregation.apportion(np.array([5, 5]), 0.5, low=2, left=3), [2, 2])


def test_permuting_the_manifest_changes_nothing() -> None:
    table = manifest({"a": 40, "b": 33, "c": 30})
    rng = np.random.default_rng(1)
    groups = rng.integers(0, 90, len(table))
    shares = Shares(0.4, 0.2, 0.25, monday_images=40, tuesday_images=25)
    first = cut(table, groups, shares=shares)
    for _ in range(3):
        order = rng.permutation(len(table))
        renamed = rng.permutation(90)[groups]  # the numbers of groups mean nothing either
        again = cut(table.iloc[order], renamed[order], shares=shares)
        pd.testing.assert_frame_equal(again.splits, first.splits)
        pd.testing.assert_frame_equal(again.true_labels, first.true_labels)


def test_the_seed_decides() -> None:
    table = manifest({"a": 100, "b": 100})
    first, again, other = cut(table), cut(table), cut(table, seed=1)
    pd.testing.assert_frame_equal(first.splits, again.splits)
    assert sizes(first) == sizes(other)
    before, after = places(first), places(other)
    # by chance two seeds agree on 0.3^2 + 2 * 0.1^2 + 0.4^2 + 0.1^2 = 28% of the images
    assert np.mean([before[image] == after[image] for image in table["image"]]) < 0.5


def test_no_duplicates_straddle_a_day_or_a_split() -> None:
    rng = np.random.default_rng(2)
    table = manifest({"a": 90, "b": 60, "c": 50})
    for seed in range(3):
        groups = rng.integers(0, 110, len(table))  # many groups of two to six, most of mixed classes
        result = cut(table, groups, seed=seed, shares=Shares(0.5, 0.2, 0.25, tuesday_images=80))
        of = dict(zip(table["image"], groups, strict=True))
        seen = pd.DataFrame({"group": [of[image] for image in result.splits["image"]], "at": places(result).values()})
        assert (seen.groupby("group")["at"].nunique() == 1).all()
        assert result.n_duplicates == int(pd.Series(groups).duplicated(keep=False).sum())
        assert 70 <= sum(n for (day, _), n in sizes(result).items() if day == "tuesday") <= 80


def test_shares_with_duplicates_are_exact_to_a_groups_size() -> None:
    table = manifest({"a": 200, "b": 120})
    groups = np.concatenate([np.arange(200) // 4, 1000 + np.arange(120) // 3])
    result = cut(table, groups)
    n_tuesday = result.splits[result.splits["day"] == "tuesday"]["image"].str[0].value_counts()
    assert abs(n_tuesday["a"] - 100) < 4
    assert abs(n_tuesday["b"] - 60) < 3


def test_a_group_of_mixed_classes_counts_as_the_most_frequent() -> None:
    table = pd.DataFrame({"image": ["a", "b", "c", "d", "e"], "stratum": ["y", "x", "x", "y", "x"], "group": [1, 1, 1, 2, 2]})
    assert segregation.majority_labels(table).to_dict() == {1: "x", 2: "x"}


def test_the_smallest_possible_classes_get_one_image_in_each_split() -> None:
    result = cut(manifest({"a": 5, "b": 5, "c": 200}))
    of_a = result.splits[result.splits["image"].str.startswith("a/")]
    assert sorted(zip(of_a["day"], of_a["split"], strict=True)) == [
        ("monday", "test"),
        ("monday", "train"),
        ("monday", "val"),
        ("tuesday", "test"),
        ("tuesday", "train"),
    ]


def test_classes_of_few_large_groups_still_get_one_in_each_split() -> None:
    table = manifest({"a": 40, "b": 400})
    groups = np.where(table["label"] == "a", 1000 + np.arange(440) % 5, np.arange(440))  # a: five groups of eight
    for seed in range(3):
        for shares in (SHARES, Shares(0.5, 0.9, 0.9), Shares(0.9, 0.5, 0.5)):
            result = cut(table, groups, seed=seed, shares=shares)
            found = result.splits.groupby([result.splits["image"].str[0], "day", "split"]).size()
            assert (found["a"] == 8).all()
            assert len(found) == 10


def test_a_cap_that_whole_groups_do_not_fit_in_is_refused() -> None:
    table = manifest({"a": 40, "b": 40})
    with pytest.raises(BCCPError, match=r"segregation\.monday_images=20 is too low.*give 24 or more"):
        cut(table, np.arange(80) // 4, shares=Shares(0.5, 0.2, 0.25, monday_images=20))


def test_extreme_shares_leave_no_class_without_a_split() -> None:
    for shares in (Shares(0.95, 0.05, 0.05), Shares(0.05, 0.95, 0.95)):
        result = cut(manifest({"a": 12, "b": 12}), shares=shares)
        found = result.splits.groupby([result.splits["image"].str[0], "day", "split"]).size()
        assert len(found) == 10


def test_labels_are_blank_where_they_are_in_doubt_and_true_labels_hold_the_target_day() -> None:
    result = cut(manifest({"a": 30, "b": 30}))
    blank = result.splits[result.splits["label"] == ""]
    assert set(zip(blank["day"], blank["split"], strict=True)) == {("tuesday", "train")}
    assert len(blank) == sizes(result)["tuesday", "train"]
    tuesday = result.splits[result.splits["day"] == "tuesday"]
    assert result.true_labels["image"].tolist() == tuesday["image"].tolist()
    assert all(row.image.startswith(row.label) for row in result.true_labels.itertuples())
    named = result.splits[result.splits["label"] != ""]
    assert all(row.image.startswith(row.label) for row in named.itertuples())
    assert result.truth_known


def test_with_monday_as_target_there_is_no_tuesday() -> None:
    for table in (manifest({"a": 30, "b": 30}), own_days({"a": 20, "b": 20}, {"a": 10, "b": 10})):
        result = cut(table, target_day="monday", named=table["image"].head(5).tolist())
        assert sizes(result) == {("monday", "test"): 12, ("monday", "val"): 12, ("monday", "train"): 36}
        assert (result.splits.loc[result.splits["split"] == "train", "label"] == "").all()
        assert (result.splits.loc[result.splits["split"] != "train", "label"] != "").all()
        assert len(result.true_labels) == 60
        assert not result.cut_here


def test_doubtful_folder_names_are_nobodys_truth() -> None:
    table = own_days({"a": 30, "b": 30}, {"a": 30, "b": 30})
    tuesday = cut(table, folder_is_truth=False)
    assert not tuesday.truth_known
    assert tuesday.true_labels.empty
    assert (tuesday.splits.loc[tuesday.splits["day"] == "tuesday", "label"] == "").all()
    assert (tuesday.splits.loc[tuesday.splits["day"] == "monday", "label"] != "").all()
    pd.testing.assert_series_equal(tuesday.splits["split"], cut(table).splits["split"])
    with pytest.raises(BCCPError, match="half of which would be trusted"):
        cut(manifest({"a": 30, "b": 30}), folder_is_truth=False)
    monday = cut(manifest({"a": 30, "b": 30}), folder_is_truth=False, target_day="monday")
    assert (monday.splits["label"] == "").all()
    assert not monday.truth_known


def test_own_days_stay_what_they_are() -> None:
    table = own_days({"a": 20, "b": 20}, {"a": 10})
    result = cut(table)
    assert all(day == image.split("/")[0] for image, (day, _) in places(result).items())
    assert sizes(result)["tuesday", "test"] == 2
    assert sizes(result)["monday", "test"] == 8
    assert not result.cut_here
    assert result.truth_known


def test_loose_images_of_tuesday_are_stratified_by_given_labels_and_have_no_truth() -> None:
    table = own_days({"a": 20, "b": 20}, {"a": 10, "b": 10}, loose=14)
    given = {f"tuesday/{i:03d}.png": "ab"[i % 2] for i in range(10)} | {"tuesday/a/0000.png": "b"}
    result = cut(table, given=given, named=given)
    assert result.left_out["no_label"] == 4
    assert not result.truth_known
    loose = result.splits[result.splits["image"].isin([i for i in given if "/a/" not in i])]
    assert len(loose) == 10
    assert (loose["label"] == "").all()
    assert set(result.true_labels["image"]) == set(table.loc[(table["day"] == "tuesday") & (table["label"] != ""), "image"])
    tested = result.splits[(result.splits["day"] == "tuesday") & (result.splits["split"] == "test")]
    assert len(tested) == 6  # a fifth of 10 + 10 + 10
    truth = dict(zip(result.true_labels["image"], result.true_labels["label"], strict=True))
    labels = [truth.get(image) or given[image] for image in tested["image"]]
    assert labels.count("a") == labels.count("b") == 3
    assert truth["tuesday/a/0000.png"] == "a"


def test_feedback_over_plain_folders_makes_what_it_names_tuesday() -> None:
    table = manifest({"a": 30, "b": 30})
    named = [image for image in table["image"] if image.endswith(("1.png", "2.png"))]
    result = cut(table, named=named, given=dict.fromkeys(named, "b"))
    assert {image for image, (day, _) in places(result).items() if day == "tuesday"} == set(named)
    assert result.truth_known
    assert set(result.true_labels["image"]) == set(named)
    assert all(row.image.startswith(row.label) for row in result.true_labels.itertuples())
    assert not result.cut_here


def test_duplicates_on_both_own_days_are_in_one_split() -> None:
    rng = np.random.default_rng(3)
    table = own_days({"a": 60, "b": 60}, {"a": 40, "b": 40})
    for seed in range(3):
        groups = rng.integers(0, 90, len(table))
        result = cut(table, groups, seed=seed)
        of = dict(zip(table["image"], groups, strict=True))
        seen = pd.DataFrame([(of[image], day, split) for image, (day, split) in places(result).items()])
        assert (seen.groupby(0)[2].nunique() == 1).all()
        assert (seen.groupby(0)[1].nunique() == 2).any()
        assert len(result.splits) + result.left_out["copies_of_val"] == len(table)


def test_groups_on_both_days_are_spared_from_validation_where_others_suffice() -> None:
    table = own_days({"a": 40, "b": 40}, {"a": 20, "b": 20})
    # the first ten images of each class are the same on both days
    groups = [hash_of(image.split("/", 1)[1]) if int(image[-8:-4]) < 10 else hash_of(image) for image in table["image"]]
    result = cut(table, groups)
    assert result.left_out["copies_of_val"] == 0
    at = places(result)
    both = [image for image in at if image.startswith("tuesday/") and int(image[-8:-4]) < 10]
    assert len(both) == 20
    assert all(at[image][1] == at[image.replace("tuesday/", "monday/")][1] for image in both)
    assert abs(sizes(result)["tuesday", "test"] - 8) <= 4


def test_a_tuesday_that_repeats_all_of_monday_loses_only_the_copies_of_validation_images() -> None:
    table = own_days({"a": 40, "b": 40}, {"a": 60, "b": 60})
    groups = [hash_of(image.split("/", 1)[1]) for image in table["image"]]
    result = cut(table, groups)
    assert result.left_out["copies_of_val"] == sizes(result)["monday", "val"] == 16


def hash_of(text: str) -> int:
    return int(hashlib.sha256(text.encode()).hexdigest()[:12], 16)


def test_caps_are_kept_and_stratified() -> None:
    shares = Shares(0.5, 0.2, 0.25, monday_images=50, tuesday_images=21)
    result = cut(manifest({"a": 200, "b": 100}), shares=shares)
    days = result.splits.assign(of=result.splits["image"].str[0]).groupby(["day", "of"]).size()
    assert days["monday"].sum() == 50
    assert days["tuesday"].sum() == 21
    assert abs(days["monday", "a"] - 100 / 3) < 1
    assert days["tuesday", "a"] == 14
    assert result.left_out == {"no_label": 0, "monday_cap": 100, "tuesday_cap": 129, "copies_of_val": 0}
    assert len(result.true_labels) == 21


def test_a_cap_above_the_day_changes_nothing() -> None:
    table = manifest({"a": 20, "b": 20})
    capped = cut(table, shares=Shares(0.5, 0.2, 0.25, monday_images=20, tuesday_images=500))
    pd.testing.assert_frame_equal(capped.splits, cut(table).splits)


@pytest.mark.parametrize(
    ("table", "options", "words"),
    [
        (manifest({"a": 30, "b": 4, "c": 1}), {}, ["'b' (4 images, 4 different), 'c' (1 image, 1 different)", "5 different"]),
        (manifest({"a": 30, "b": 2}), {"target_day": "monday"}, ["'b' (2 images, 2 different)", "3 different images (train"]),
        (own_days({"a": 9, "b": 2}, {"a": 9}), {}, ["'b' (2 images", "3 different images on Monday"]),
        (own_days({"a": 9, "b": 9}, {"a": 9, "b": 1}), {}, ["'b' (1 image,", "2 different images on Tuesday"]),
        (own_days({"a": 9, "b": 9}, {"a": 9, "c": 9}), {}, ["no trusted image (Monday) shows", "'c'"]),
        (own_days({}, {"a": 9}), {}, ["no image is left for Monday"]),
        (own_days({"a": 9, "b": 9}, {}), {}, ["no image with a label is Tuesday", "noisy_labels.feedback_file"]),
        (own_days({"a": 9, "b": 9}, {}, loose=5), {}, ["no image with a label is Tuesday"]),
        (manifest({"a": 30}), {}, ["only one class, 'a'"]),
        (manifest({"a": 9, "b": 9}), {"named": manifest({"a": 9, "b": 9})["image"].tolist()}, ["no image is left for Monday"]),
        (manifest({"a": 9, "b": 9}), {"shares": Shares(0.5, 0.2, 0.25, 5)}, ["segregation.monday_images=5", "give 6 or more"]),
        (manifest({"a": 9, "b": 9}), {"shares": Shares(0.5, 0.2, 0.25, None, 3)}, ["segregation.tuesday_images=3", "give 4"]),
        (pd.concat([manifest({"a": 9}), own_days({"b": 9}, {"b": 9})]), {}, ["9 images lie neither", "'a/0000.png'"]),
    ],
)
def test_what_cannot_be_cut_is_refused_by_name(table: pd.DataFrame, options: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(BCCPError) as caught:
        cut(table, **options)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_duplicates_do_not_help_a_small_class() -> None:
    table = manifest({"a": 20, "b": 20})
    groups = np.where(table["label"] == "b", 1000 + np.arange(40) % 4, np.arange(40))
    with pytest.raises(BCCPError, match=r"'b' \(20 images, 4 different\)"):
        cut(table, groups)


def test_a_tuesday_of_nothing_but_copies_of_trained_images_is_refused() -> None:
    table = own_days({"a": 30, "b": 30}, {"a": 10, "b": 2})
    trained = [image for image, at in places(cut(table)).items() if at == ("monday", "train") and "/b/" in image][:2]
    groups = np.arange(len(table))
    position = dict(zip(table["image"], range(len(table)), strict=True))
    for i, image in enumerate(trained):
        groups[position[f"tuesday/b/000{i}.png"]] = groups[position[image]]
    with pytest.raises(BCCPError, match="class 'b' cannot be split for the tuesday test"):
        cut(table, groups)


def test_auto_corrupts_only_a_tuesday_that_was_cut_here_and_whose_labels_are_simulated() -> None:
    plain = manifest({"a": 20, "b": 20})
    cut_here, own = cut(plain), cut(own_days({"a": 9, "b": 9}, {"a": 9, "b": 9}))
    fed = cut(plain, named=[image for image in plain["image"] if image.endswith(("1.png", "2.png"))])
    kinds = {name: set(mark(result)["corruption"]) for name, result in (("cut", cut_here), ("own", own), ("fed", fed))}
    assert kinds == {"cut": {"", *corruption.KINDS}, "own": {""}, "fed": {""}}
    assert set(mark(cut_here, simulated=False)["corruption"]) == {""}
    assert set(mark(own, "mosaic").query("day == 'tuesday'")["corruption"]) == {"mosaic"}
    assert set(mark(cut(plain, target_day="monday"), "mosaic")["corruption"]) == {""}


def mark(result: Segregated, kind: str = "auto", *, simulated: bool = True) -> pd.DataFrame:
    return segregation.mark_corrupted(result, corruption=kind, simulated=simulated, seed=0)


def test_corrupted_rows_count_up_along_tuesday() -> None:
    splits = mark(cut(manifest({"a": 20, "b": 20})))
    tuesday = splits["day"] == "tuesday"
    assert splits.loc[tuesday, "corrupted_row"].tolist() == list(range(20))
    assert (splits.loc[~tuesday, "corrupted_row"] == -1).all()


PARTS = ("train", "val", "test")


def given_table(counts: Mapping[str, Mapping[str, int]], *, day: str = "") -> pd.DataFrame:
    """A manifest of so many images of each class in each given part."""
    prefix = f"{day}/" if day else ""
    parts = [manifest(classes, day=day, prefix=f"{prefix}{part}/").assign(given_split=part) for part, classes in counts.items()]
    return pd.concat(parts, ignore_index=True).assign(row=lambda table: range(len(table)))


def cut_given(table: pd.DataFrame, groups: Sequence[int] | None = None, file: Path | None = None, **options: Any) -> Segregated:
    return cut(table, groups, split=find_given_split(table, file), **options)


def by_part(result: Segregated, day: str = "monday") -> dict[str, list[str]]:
    return {str(part): sorted(rows["image"]) for part, rows in result.splits[result.splits["day"] == day].groupby("split")}


def test_a_given_split_is_kept_and_of_copies_across_it_all_are_trained_on() -> None:
    table = given_table({"train": {"a": 6, "b": 6}, "val": {"a": 2, "b": 2}, "test": {"a": 3, "b": 3}})
    result = cut_given(table, target_day="monday")
    assert all(image.startswith(f"{part}/") for part, images in by_part(result).items() for image in images)
    assert (result.given, result.moved_to_train) == ({"train": 12, "val": 4, "test": 6}, 0)
    groups = np.arange(len(table))
    position = {image: i for i, image in enumerate(table["image"])}
    groups[position["test/a/0000.png"]] = groups[position["train/a/0000.png"]]
    groups[position["test/b/0000.png"]] = groups[position["val/b/0001.png"]]
    moved = cut_given(table, groups, target_day="monday")
    found = by_part(moved)
    assert moved.moved_to_train == 3
    assert {"test/a/0000.png", "test/b/0000.png", "val/b/0001.png"} <= set(found["train"])
    assert (len(found["train"]), len(found["val"]), len(found["test"])) == (15, 3, 4)


@pytest.mark.parametrize("missing", ["val", "test"])
def test_what_a_given_split_lacks_is_cut_from_its_training_images(missing: str) -> None:
    counts = {part: {"a": 20, "b": 12} for part in PARTS if part != missing}
    result = cut_given(given_table(counts), target_day="monday")
    found = by_part(result)
    assert {image.split("/")[0] for image in found[missing]} == {"train"}
    kept = ({"val", "test"} - {missing}).pop()
    assert len(found[kept]) == 32
    assert all(image.startswith(f"{kept}/") for image in found[kept])
    assert len(found[missing]) == {"val": 8, "test": 6}[missing]  # shares of the training images


def test_a_tuesday_cut_from_a_given_split_leaves_validation_to_monday() -> None:
    result = cut_given(given_table({part: {"a": 10, "b": 10} for part in PARTS}))
    assert sizes(result) == {
        ("monday", "train"): 10, ("monday", "val"): 20, ("monday", "test"): 10, ("tuesday", "train"): 10, ("tuesday", "test"): 10,
    }  # fmt: skip
    assert all(image.startswith(f"{split}/") for image, (_, split) in places(result).items())


def test_each_day_may_have_a_given_split() -> None:
    counts = {part: {"a": 8, "b": 8} for part in PARTS}
    monday, tuesday = given_table(counts, day="monday"), given_table(counts, day="tuesday")
    both = places(cut_given(pd.concat([monday, tuesday], ignore_index=True)))
    # Tuesday has no validation of its own
    assert all(split == image.split("/")[1] or image.startswith("tuesday/val/") for image, (_, split) in both.items())
    assert {both[image][1] for image in both if image.startswith("tuesday/val/")} == {"train"}
    plain = manifest({"a": 20, "b": 20}, day="monday", prefix="monday/")
    table = pd.concat([plain.assign(given_split=""), tuesday], ignore_index=True)
    groups = np.arange(len(table))
    groups[40:56], groups[72:88] = np.arange(16), np.arange(16, 32)  # all that Tuesday trains on and tests lies on Monday, too
    only = cut_given(table, groups)
    of_group = pd.Series(groups, table["image"])
    found = places(only)
    tested = {of_group[image] for image, (day, split) in found.items() if split == "test" and day == "tuesday"}
    trained = {of_group[image] for image, (_, split) in found.items() if split == "train"}
    assert tested
    assert not tested & trained
    assert len(by_part(only)["val"]) > 0


def test_with_monday_as_target_a_day_without_a_split_is_trained_on() -> None:
    tuesday = given_table({part: {"a": 8, "b": 8} for part in PARTS}, day="tuesday")
    plain = manifest({"a": 5, "b": 5}, day="monday", prefix="monday/").assign(given_split="")
    result = cut_given(pd.concat([plain, tuesday], ignore_index=True), target_day="monday")
    assert sizes(result) == {("monday", "train"): 26, ("monday", "val"): 16, ("monday", "test"): 16}


def test_caps_keep_each_parts_share_of_a_given_split() -> None:
    table = given_table({"train": {"a": 30, "b": 30}, "val": {"a": 10, "b": 10}, "test": {"a": 10, "b": 10}})
    result = cut_given(table, target_day="monday", shares=Shares(0.5, 0.2, 0.25, monday_images=50))
    assert sizes(result) == {("monday", "train"): 30, ("monday", "val"): 10, ("monday", "test"): 10}


def test_a_class_may_lack_test_images_but_not_training_images() -> None:
    counts = {"train": {"a": 5, "b": 5}, "val": {"a": 2, "b": 2}, "test": {"a": 3}}
    assert cut_given(given_table(counts), target_day="monday").classes == ["a", "b"]
    with pytest.raises(BCCPError, match=r"no training images of 'c' on Monday.*segregation\.split=own"):
        cut_given(given_table(counts | {"test": {"a": 3, "c": 3}}), target_day="monday")


def test_tuesday_may_test_a_class_that_only_monday_trains_on_but_has_to_train_on_some() -> None:
    monday = manifest({"a": 6, "b": 6}, day="monday", prefix="monday/").assign(given_split="")
    tuesday = given_table({"train": {"a": 4}, "test": {"a": 2, "b": 2}}, day="tuesday")
    result = cut_given(pd.concat([monday, tuesday], ignore_index=True))
    assert (sizes(result)[("tuesday", "train")], sizes(result)[("tuesday", "test")]) == (4, 4)
    untrained = given_table({"test": {"a": 2, "b": 2}}, day="tuesday")
    with pytest.raises(BCCPError, match=r"no training images of 'a', 'b' on Tuesday"):
        cut_given(pd.concat([monday, untrained], ignore_index=True))


def test_a_split_file_wins_over_folders_and_finds_names_as_people_write_them(tmp_path: Path) -> None:
    file = tmp_path / "split.csv"
    table = given_table({part: {"caf\u00e9": 4, "b": 4} for part in PARTS})
    file.write_text(
        "\ufeffSplit,IMAGE\r\nvalid,./train/cafe\u0301/0000.png\r\nTESTING,train\\b\\0000.png\r\ntest,gone.png\r\n\r\n", "utf-8"
    )
    split = find_given_split(table, file)
    assert split is not None
    assert split.unknown == ["gone.png"]
    changed = {image for image, part in split.part.items() if part != image.split("/")[0]}
    assert changed == {"train/caf\u00e9/0000.png", "train/b/0000.png"}
    assert split.part["train/caf\u00e9/0000.png"] == "val"


def test_what_a_split_file_does_not_name_is_trained_on_unless_it_names_training_images(tmp_path: Path) -> None:
    file, table = tmp_path / "split.csv", manifest({"a": 12, "b": 12})
    held_out = [f"{label}/{i:04d}.png,{part}" for label in "ab" for i, part in enumerate(["val", "val", "test", "test"])]
    file.write_text("\n".join(["image,split", *held_out]))
    assert sizes(cut_given(table, file=file, target_day="monday")) == {("monday", "train"): 16, ("monday", "val"): 4, ("monday", "test"): 4}
    named = [f"{label}/{i:04d}.png,train" for label in "ab" for i in range(6, 9)]
    file.write_text("\n".join(["image,split", *held_out, *named]))
    result = cut_given(table, file=file, target_day="monday")
    assert sizes(result) == {("monday", "train"): 6, ("monday", "val"): 4, ("monday", "test"): 4}
    assert result.left_out["in_no_split"] == 10


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty: it has no columns image and split"),
        ("image,label\na/0000.png,train\n", "has no columns image and split"),
        ("image,split\na/0000.png,tset\n", "says 'tset' for 'a/0000.png', which is no split .did you mean 'test'"),
        ("image,split\na/0000.png,train\na/0000.png,test\n", "says both 'train' and 'test' for 'a/0000.png'"),
        (
            "image,split\nx.png,train\n",
            "none of the 1 rows .* names an image: an image is called 'x.png' there and 'a/0000.png' in the data",
        ),
        ('image,split\n"x.png,train\n', "cannot be read"),
        (b"image,split\n\xff,train\n", "no text in UTF-8"),
        (None, "cannot be read .No such file"),
    ],
)
def test_a_split_file_that_says_nothing_is_refused(tmp_path: Path, text: str | bytes | None, words: str) -> None:
    file = tmp_path / "split.csv"
    if text is not None:
        file.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(BCCPError, match=words):
        find_given_split(manifest({"a": 5}), file)
