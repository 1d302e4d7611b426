"""Report that a person fills in: nearest neighbours, the table, and the picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bccp.data import galleries
from bccp.labels import bayes_cutoff, expert_labels, findings, label_report
from bccp.labels.label_report import Suspect

CLASSES = ["ant", "bee", "cow"]
POSTERIOR = np.array([[0.9, 0.1, 0.0], [0.2, 0.7, 0.1], [0.05, 0.15, 0.8], [0.5, 0.25, 0.25]])


def cosine_by_loop(vectors: np.ndarray, references: np.ndarray) -> list[int]:
    found = []
    for vector in vectors.astype(float):
        best, place = -2.0, -1
        for k, reference in enumerate(references.astype(float)):
            lengths = np.linalg.norm(vector) * np.linalg.norm(reference)
            cosine = vector @ reference / lengths if lengths else 0.0
            if cosine > best + 1e-6:
                best, place = cosine, k
        found.append(place)
    return found


def test_the_nearest_is_the_one_that_a_loop_finds_in_blocks_of_any_size() -> None:
    rng = np.random.default_rng(1)
    references = rng.normal(size=(60, 7)).astype(np.float32)
    references[20] = 3 * references[5]  # a copy at another length: the first is taken
    references[33] = 0
    vectors = np.concatenate([rng.normal(size=(40, 7)), 0.1 * references[[20, 5, 33]], -references[:4]]).astype(np.float32)
    before = vectors.copy(), references.copy()
    found = label_report.nearest_by_cosine(vectors, references)
    assert found.tolist() == cosine_by_loop(vectors, references)
    assert found[40:43].tolist() == [5, 5, 0]  # a zero vector is equally far from everything
    for rows_at_once in (1, 7):
        assert label_report.nearest_by_cosine(vectors, references, rows_at_once=rows_at_once).tolist() == found.tolist()
    np.testing.assert_array_equal(before[0], vectors)
    np.testing.assert_array_equal(before[1], references)
    assert label_report.nearest_by_cosine(vectors[:0], references).shape == (0,)


def test_many_copies_of_one_reference_tie_to_the_first() -> None:
    rng = np.random.default_rng(2)
    references = np.repeat(rng.normal(size=(3, 129)), 50, axis=0).astype(np.float32) * rng.uniform(0.1, 9, (150, 1)).astype(np.float32)
    assert label_report.nearest_by_cosine(references, references).tolist() == np.repeat([0, 50, 100], 50).tolist()


def decided(posterior: np.ndarray | None = POSTERIOR, action: str = "soft") -> bayes_cutoff.Decision:
    """Four images, all given as ant; the third is the worst, the second next."""
    score = [0.1, 0.8, 0.95, 0.5]
    above = [False, True, True, False]
    return bayes_cutoff.decide(list("wxyz"), [0, 0, 0, 0], CLASSES, score=score, above=above, action=action, posterior=posterior)


def test_the_table_says_for_each_image_what_a_person_needs() -> None:
    votes = pd.DataFrame(
        [("x", "zoe", "ant"), ("x", "bob", "ant"), ("x", "eve", "bee"), ("w", "eve", "bee")], columns=["image", "user", "label"]
    )
    shuffled = decided().table.iloc[[2, 0, 3, 1]]
    report = label_report.report_table(
        shuffled, CLASSES, posterior=POSTERIOR[[2, 0, 3, 1]], votes=votes, nearest_trusted={"y": "mon/1.png"}, audited={"x": "cow"}
    )
    assert tuple(report.columns) == label_report.REPORT_COLUMNS
    assert report.to_numpy().tolist() == [
        ["w", "", "suspect", "ant", "0.100000", "ant", "0.900000", "", "", 3],
        ["x", "cow", "", "ant", "0.800000", "bee", "0.700000", "bob;zoe", "", 4],
        ["y", "", "random", "ant", "0.950000", "cow", "0.800000", "", "mon/1.png", 1],
        ["z", "", "suspect", "ant", "0.500000", "ant", "0.500000", "", "", 2],
    ]


def many_decided(scores: np.ndarray) -> pd.DataFrame:
    images = [f"{i:03d}" for i in range(len(scores))]
    return bayes_cutoff.decide(images, np.zeros(len(scores), int), CLASSES, score=scores, above=scores > 2, action="drop").table


def test_the_worst_and_a_sample_are_proposed_for_checking_and_the_sample_does_not_look_at_scores() -> None:
    scores = np.random.default_rng(0).random(300)
    one, other = (label_report.report_table(many_decided(values), CLASSES, seed=1) for values in (scores, 1 - scores))
    drawn = one["chosen"] == "random"
    assert drawn.sum() == findings.N_RANDOM
    assert (other["chosen"] == "random").equals(drawn)
    assert one.loc[one["chosen"] == "suspect", "rank"].max() <= label_report.N_SUSPECTS + findings.N_RANDOM
    left = one[~drawn].sort_values("rank")
    assert (left["chosen"] == "suspect").tolist() == [True] * label_report.N_SUSPECTS + [False] * (250 - label_report.N_SUSPECTS)
    assert not (label_report.report_table(many_decided(scores), CLASSES, seed=2)["chosen"] == "random").equals(drawn)


def test_a_report_that_is_fed_back_keeps_its_groups_and_fills_up_the_sample() -> None:
    table = many_decided(np.random.default_rng(0).random(300))
    first = label_report.report_table(table, CLASSES).set_index("image")
    drawn, worst = (first.index[first["chosen"] == kind].tolist() for kind in ("random", "suspect"))
    for n_checked in (0, 20, 50):
        checked = worst + drawn[:n_checked]
        again = label_report.report_table(
            table, CLASSES, audited=dict.fromkeys(checked, "ant"), chosen=first.loc[checked, "chosen"].to_dict()
        ).set_index("image")
        assert again.loc[checked, "chosen"].equals(first.loc[checked, "chosen"])
        assert (again["chosen"] == "random").sum() == 50
        assert (again.drop(index=checked)["chosen"] == "suspect").sum() == 40


def test_an_image_of_no_class_stays_checked_when_the_report_is_fed_back(tmp_path: Path) -> None:
    checked, chosen = {"y": None, "x": "bee"}, {"y": "random", "x": "suspect"}
    table = label_report.report_table(decided().table, CLASSES, posterior=POSTERIOR, audited=checked, chosen=chosen).set_index("image")
    assert table.loc["y", ["label", "verdict", "chosen", "suggested_label", "posterior"]].tolist() == ["", "none", "random", "", ""]
    assert table.loc["x", ["label", "verdict"]].tolist() == ["bee", "label"]
    assert table.loc["w", ["label", "verdict"]].tolist() == ["", ""]
    assert sorted(table.index[table["rank"] > 2]) == ["x", "y"]
    assert sorted(label_report.unchecked(table.reset_index())["image"]) == ["w", "z"]
    table.to_csv(tmp_path / "report.csv")
    said = expert_labels.read_audit(tmp_path / "report.csv", images=list("wxyz"), judged=list("wxyz"), classes=CLASSES)
    assert said.answers == {"x": "bee", "y": None}
    assert said.chosen == {"x": "suspect", "y": "random"}
    assert "verdict" not in label_report.report_table(decided().table, CLASSES, posterior=POSTERIOR, audited={"x": "bee"})


def test_without_a_posterior_nothing_is_suggested_and_equal_scores_rank_by_image() -> None:
    table = decided(None, "drop").table.assign(score=[1.0, 2.0, 2.0, 1.0])
    report = label_report.report_table(table, CLASSES)
    assert set(report["p_wrong"]) == set(report["suggested_label"]) == set(report["posterior"]) == {""}
    assert report["rank"].tolist() == [3, 1, 2, 4]
    assert len(label_report.report_table(table[:0], CLASSES, posterior=POSTERIOR[:0])) == 0


def some_suspects(names: list[str], n_images: int = 40, *, paired: bool = True) -> list[Suspect]:
    pixels = np.random.default_rng(3).integers(0, 256, (2 * n_images, 8, 8, 3), dtype=np.uint8)
    return [
        Suspect(pixels[i], names[i % len(names)], names[-1 - i % len(names)], 1 - i / 50, pixels[-1 - i] if paired else None, names[0])
        for i in range(n_images)
    ]


@pytest.mark.parametrize(("n_images", "paired"), [(1, True), (1, False), (40, True)])
def test_the_picture_is_bounded_and_equal_input_gives_equal_bytes(tmp_path: Path, n_images: int, paired: bool) -> None:
    names = ["W" * 300, "a class $name$ of\nmany words, far too long", "日本語", "Ωμέγα", "x"]
    paths = [tmp_path / "one.png", tmp_path / "two.png"]
    for path in paths:
        label_report.draw_suspects(some_suspects(names, n_images, paired=paired), names, path, title="a title " * 60)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    with Image.open(paths[0]) as image:
        assert image.width <= 1600
        assert image.height <= 2000


def test_the_picture_shows_the_images_as_they_are(tmp_path: Path) -> None:
    red, blue = np.zeros((2, 8, 8, 3), np.uint8)
    red[..., 0], blue[..., 2] = 200, 210
    label_report.draw_suspects([Suspect(red, "a", "b", 0.9, blue, "b")], ["a", "b"], tmp_path / "one.png", title="one")
    with Image.open(tmp_path / "one.png") as image:
        colours = {colour[:3]: count for count, colour in image.getcolors(1 << 20)}
    assert colours[200, 0, 0] > 130**2
    assert colours[0, 0, 210] > 130**2


def test_names_that_the_font_cannot_write_are_told_apart_by_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    fitting = galleries.fit_text

    def spy(text: str, width: float, size: float) -> str:
        written.append(text)
        return fitting(text, width, size)

    monkeypatch.setattr(galleries, "fit_text", spy)
    names = ["猫", "犬", "кот"]
    label_report.draw_suspects([Suspect(np.zeros((8, 8, 3), np.uint8), "犬", "кот", 0.5)], names, tmp_path / "one.png", title="one")
    assert written[0].startswith("one; class k is the k-th of classes.csv")
    assert written[1:] == ["given: class 2", "likely: кот", "P(wrong) 50.0%"]
