"""The page on which labels are checked: what is on it, what it may do in a browser, and what it leaves out for its size."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bccp.core.errors import BCCPError
from bccp.reporting.embedded_pictures import PICTURE_SIZES
from bccp.reporting.html import json_text
from bccp.reporting.suspect_rows import order_rows
from support.checked_page import CLASSES, EVIL, found, picture, rows, write
from support.html_page import Page


def facts(path: Path) -> dict[str, Any]:
    """What the page's script is given."""
    (text,) = re.findall(r'<script type="application/json" id="facts">(.*?)</script>', path.read_text(encoding="utf-8"))
    return dict(json.loads(text))


def embedded(path: Path) -> dict[int, Image.Image]:
    """The pictures of a page by their number."""
    blocks = re.findall(r'<script type="text/plain" id="picture-(\d+)">(.*?)</script>', path.read_text(encoding="utf-8"))
    return {int(number): Image.open(io.BytesIO(base64.b64decode(data))) for number, data in blocks}


def test_a_page_lists_the_ranks_up_to_the_upper_end_and_the_random_images(tmp_path: Path) -> None:
    table = rows(10, n_random=2)
    made = write(tmp_path / "s.html", table, finding=found(10, at_most=0.41))
    assert (made.n_suspects, made.n_random, made.n_left_out) == (5, 2, 0)  # ceil(4.1) ranks
    page = Page(made.path)
    assert page.open == []
    assert "At least 20% of the labels are wrong, at most 41%" in page.text
    assert "Of 10 images this page lists 5 suspects, the most suspect first, and 2 images drawn at random" in page.text
    shown = [(row["chosen"], row["rank"]) for row in facts(made.path)["rows"]]
    kinds = ["suspect", "suspect", "random", "suspect", "suspect", "random", "suspect"]
    assert [kind for kind, _ in shown] == kinds
    assert [rank for kind, rank in shown if kind == "suspect"] == [1, 2, 3, 4, 5]


def test_random_images_stand_in_no_order_of_their_ranks() -> None:
    ordered = order_rows(rows(60, n_random=30), found(60, at_most=0.0))
    ranks = ordered["rank"].tolist()
    assert sorted(ranks) == list(range(31, 61))
    assert abs(pd.Series(ranks).corr(pd.Series(range(30)))) < 0.4


def test_a_judge_that_cannot_tell_the_classes_apart_names_no_suspects(tmp_path: Path) -> None:
    made = write(tmp_path / "s.html", rows(10), finding=found(10, verdict="blind"))
    assert (made.n_suspects, made.n_random) == (0, 2)
    assert "cannot tell these classes apart" in Page(made.path).text


def test_a_page_says_what_was_checked_so_far(tmp_path: Path) -> None:
    finding = found(10, at_most=None, n_audited=50, n_unsure=2, n_no_class=3)
    assert (
        "So far: 50 checked (3 of them not of any class), 2 unsure."
        in Page(write(tmp_path / "s.html", rows(10), finding=finding).path).text
    )


def test_a_page_without_rows_says_so(tmp_path: Path) -> None:
    made = write(tmp_path / "s.html", rows(4, n_random=0), finding=found(4, at_most=0.0, verdict="nothing"))
    assert (made.n_suspects, made.n_random) == (0, 0)
    assert "There is no label to check." in Page(made.path).text


def test_what_was_checked_before_stays_on_the_page_with_its_answer_and_its_origin() -> None:
    table = rows(8, n_random=2).assign(verdict="")
    table.loc[6, ["label", "chosen"]] = ["bee", "random"]
    table.loc[7, ["verdict", "chosen"]] = ["none", "unknown"]
    ordered = order_rows(table, found(8, at_most=0.25))
    assert ordered["rank"].tolist() == [1, 2, 7, 8]
    assert ordered["chosen"].tolist() == ["suspect", "suspect", "random", "unknown"]
    assert ordered["verdict"].tolist() == ["", "", "label", "none"]


def test_names_are_data_and_never_html(tmp_path: Path) -> None:
    classes = [EVIL, "javascript:alert(1)", "__proto__"]
    table = rows(6, n_random=0, classes=classes, names={0: EVIL, 1: "javascript:alert(1)//x.png"})
    links = {"images": "images", "labels.csv": "labels.csv", "report": "javascript:alert(1)"}
    made = write(tmp_path / "s.html", table, classes=classes, links=links, finding=found(6, at_most=1.0))
    page = Page(made.path)
    assert page.open == []
    assert sorted(page.addresses) == ["javascript%3Aalert%281%29", "labels.csv"]
    told = facts(made.path)
    assert told["classes"] == classes
    assert [row["image"] for row in told["rows"]][:2] == [EVIL, "javascript:alert(1)//x.png"]
    assert told["rows"][1]["href"] == "images/javascript%3Aalert%281%29//x.png"
    source = made.path.read_text(encoding="utf-8")
    assert EVIL not in source
    assert not re.search(r"onerror=.document", source)
    assert json.loads(json_text({"a": EVIL + "\u2028\ud800"})) == {"a": EVIL + "\u2028\ud800"}


def test_a_browser_may_run_the_one_script_and_load_nothing(tmp_path: Path) -> None:
    made = write(tmp_path / "s.html", rows(4))
    source, policy = made.path.read_text(encoding="utf-8"), Page(made.path).policy
    rules = {kind: sources for kind, *sources in (rule.split() for rule in policy.split(";"))}

    def digests(tag: str) -> list[str]:
        texts = re.findall(rf"<{tag}>(.*?)</{tag}>", source, flags=re.DOTALL)
        return [f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in texts]

    assert rules == {
        "default-src": ["'none'"],
        "script-src": digests("script"),
        "style-src": digests("style"),
        "img-src": ["data:"],
        "base-uri": ["'none'"],
        "form-action": ["'none'"],
    }
    assert len(digests("script")) == len(digests("style")) == 1
    assert not re.search(r"\sstyle=|\son\w+=|https?://", source.replace(Page(made.path).policy, ""))


def test_each_picture_is_there_once_in_its_own_proportions_and_large_enough(tmp_path: Path) -> None:
    table = rows(12, n_random=0)
    table.loc[0, "nearest_suggested"] = table.loc[5, "image"]  # an image that is asked about, too
    made = write(tmp_path / "s.html", table, finding=found(12, at_most=1.0))
    told, pictures = facts(made.path), embedded(made.path)
    by_image: dict[str, set[int]] = {}
    for row in told["rows"]:
        by_image.setdefault(row["image"], set()).add(row["picture"])
        for near in row["near"]:
            by_image.setdefault(near["image"], set()).add(near["picture"])
    assert len(by_image) == 12 + 1 + 3
    assert all(len(numbers) == 1 for numbers in by_image.values())
    assert len(pictures) == len(by_image)
    assert [list(pictures[n].size) for n in range(len(pictures))] == told["pictures"]
    for row in told["rows"]:
        width, height = pictures[row["picture"]].size
        assert width >= 200
        assert abs(width / height - 1.5) < 0.02
        assert min(max(pictures[near["picture"]].size) for near in row["near"]) >= 120
    mean = np.asarray(pictures[told["rows"][0]["picture"]].convert("RGB"), float).mean(axis=(0, 1))
    assert np.allclose(mean, np.asarray(picture(table.loc[0, "image"]), float).mean(axis=(0, 1)), atol=4)


def test_the_limit_costs_quality_first_and_then_the_least_suspect_rows(tmp_path: Path) -> None:
    def noisy(image: str) -> Image.Image:
        return Image.fromarray(np.random.default_rng(list(image.encode())).integers(0, 256, (150, 200, 3), dtype=np.uint8))

    table = rows(12, n_random=3)
    table.loc[11, "label"] = "bee"
    options = {"originals": noisy, "finding": found(12, at_most=1.0)}
    full = write(tmp_path / "full.html", table, **options)
    assert (full.size, full.n_left_out) == (PICTURE_SIZES[0], 0)
    assert "leaves out" not in Page(full.path).text
    lower = write(tmp_path / "lower.html", table, **options, limit_bytes=full.n_bytes * 3 // 4)
    assert lower.n_left_out == 0
    assert lower.size in PICTURE_SIZES[1:]
    assert lower.n_bytes <= full.n_bytes * 3 // 4
    few = write(tmp_path / "few.html", table, **options, limit_bytes=130_000)
    assert few.size == PICTURE_SIZES[-1]
    assert 100_000 < few.n_bytes <= 130_000
    assert f"this page leaves out {few.n_left_out} images, the least suspect ones" in Page(few.path).text
    told = facts(few.path)
    shown = {row["rank"] for row in told["rows"]}
    assert shown == {10, 11} | set(range(1, few.n_suspects + 1))  # the random ones are needed all
    assert few.n_suspects + 2 + few.n_left_out == 12
    assert told["carried"] == [[table.loc[11, "image"], "bee", "label", "random", 12]]  # an answer is never lost
    with pytest.raises(BCCPError, match="has no room for images"):
        write(tmp_path / "none.html", table, limit_bytes=10_000)
    assert {path.name for path in tmp_path.iterdir()} == {"full.html", "lower.html", "few.html"}


def test_images_that_cannot_be_read_stay_on_the_page_without_a_picture(tmp_path: Path) -> None:
    def gone(image: str) -> Image.Image:
        raise {"ant/0000.png": KeyError, "bee/0001.png": OSError}.get(image, ValueError)(image)

    made = write(tmp_path / "s.html", rows(4), originals=gone)
    assert made.n_without_picture == made.n_suspects + made.n_random == 4
    assert {row["picture"] for row in facts(made.path)["rows"]} == {-1}


def test_answers_are_kept_for_the_same_labels_whatever_is_made_of_them(tmp_path: Path) -> None:
    table = rows(6)
    again = table.sample(frac=1, random_state=1).assign(p_wrong="0.5")
    other = table.assign(given_label=table["suggested_label"])
    keys = [facts(write(tmp_path / "s.html", one).path)["key"] for one in (table, again, other)]
    assert keys[0] == keys[1] != keys[2]


def test_equal_rows_make_equal_bytes_in_any_order(tmp_path: Path) -> None:
    table = rows(9)
    texts = {write(tmp_path / "s.html", one).path.read_bytes() for one in (table, table.iloc[::-1].reset_index(drop=True))}
    assert len(texts) == 1


def test_a_large_set_stays_within_the_number_of_rows_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bccp.reporting.suspects_page.MOST_ROWS", 30)
    made = write(tmp_path / "s.html", rows(100, n_random=5), finding=found(100, at_most=0.6))
    assert (made.n_suspects, made.n_random, made.n_left_out) == (25, 5, 35)


def test_colours_are_told_apart_in_the_light_and_in_the_dark() -> None:
    style = Path(json_text.__code__.co_filename).with_name("assets").joinpath("review.css").read_text(encoding="utf-8")
    schemes = [dict(re.findall(r"--(\w+): (#\w{6})", block)) for block in re.findall(r":root \{(.*?)\}", style, flags=re.DOTALL)]
    assert len(schemes) == 2

    def luminance(colour: str) -> float:
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    texts = [(ink, place) for ink in ("ink", "soft", "blue", "good") for place in ("page", "card")]
    texts += [("ink", "button"), ("soft", "button"), ("on", "blue"), ("on", "good"), ("on", "accent")]
    for colours in schemes:
        for ink, place in texts:
            bright, dark = sorted((luminance(colours[ink]), luminance(colours[place])), reverse=True)
            assert (bright + 0.05) / (dark + 0.05) >= 4.5, (ink, place)


def test_columns_that_are_not_known_are_not_needed(tmp_path: Path) -> None:
    least = pd.DataFrame({"image": ["a.png", "b.png"], "chosen": "", "given_label": ["ant", "bee"], "rank": [1, 2]})
    made = write(tmp_path / "s.html", least, finding=found(2, at_most=1.0), classes=CLASSES)
    first = facts(made.path)["rows"][0]
    assert (first["suggested"], first["pWrong"], first["near"], first["href"]) == (-1, None, [], "")
