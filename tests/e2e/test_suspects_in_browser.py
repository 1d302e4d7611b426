"""The page on which labels are checked, in a browser: by keys, by a mouse, on a phone, with hostile names, and read back as an audit."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from bccp.labels import expert_labels
from support.browser import CHROMIUM, Browser
from support.checked_page import CLASSES, EVIL, found, picture, rows, write

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium")

NAMES = {0: EVIL, 1: 'bee/=SUM(A1:A9), "x".png', 2: "cow/two\nlines\r.png", 3: "ant/\u00e4 \U0001f41c.png"}


@pytest.fixture(scope="module")
def shared_browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One browser for all of these tests."""
    started = Browser(tmp_path_factory.mktemp("profile"))
    yield started
    started.close()


@pytest.fixture
def browser(shared_browser: Browser) -> Iterator[Browser]:
    """The browser, which must not complain during a test."""
    shared_browser.complaints.clear()
    yield shared_browser
    assert shared_browser.complaints == []


def texts(browser: Browser, selector: str) -> list[str]:
    """What elements say."""
    return list(browser.run(f"[...document.querySelectorAll({json.dumps(selector)})].map((one) => one.textContent)"))


def current(browser: Browser) -> str:
    """The id of the image that the page is at."""
    return str(browser.run("document.querySelector('.card.current figcaption').firstChild.textContent"))


def see_all_cards(browser: Browser) -> None:
    """Scroll to each card, so that it is made."""
    browser.run("for (const card of document.querySelectorAll('.card')) card.scrollIntoView()")
    browser.settle()


def downloaded(browser: Browser, folder: Path) -> Path:
    """Press the button and wait for the file."""
    folder.mkdir()
    browser.ask("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
    browser.click("#download")
    end = time.monotonic() + 30
    while not (folder / "checked.csv").exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    return folder / "checked.csv"


def test_keys_answer_go_on_and_undo_and_answers_outlive_the_page(browser: Browser, tmp_path: Path) -> None:
    table = rows(12, n_random=3, names=NAMES)
    table.loc[6, "label"] = "cow"  # checked in an earlier run
    made = write(tmp_path / "s.html", table)
    browser.open(made.path)
    order = [row["image"] for row in browser.run("JSON.parse(document.getElementById('facts').textContent).rows")]
    assert texts(browser, "h1") == [
        "At least 20% of the labels are wrong, at most 50%; 2 surely (P >= 0.9); check these 4 at random to know."
    ]
    browser.press("s", "r", "u", "n", "2", "3")
    assert current(browser) == order[6]
    browser.press("z", "k")  # undone, and back at the one before
    assert current(browser) == order[4]
    browser.press("j")
    assert current(browser) == order[5]
    progress = texts(browser, "#progress-text")
    browser.reload()
    assert texts(browser, "#progress-text") == progress
    assert texts(browser, ".card.done .answer")[:2] == [f"Checked: {CLASSES[1]}", f"Checked: {CLASSES[1]}"]

    read = expert_labels.read_audit(downloaded(browser, tmp_path / "got"), images=table["image"], judged=table["image"], classes=CLASSES)
    given, suggested = (dict(zip(table["image"], table[name], strict=True)) for name in ("given_label", "suggested_label"))
    by_answer = {order[0]: suggested[order[0]], order[1]: given[order[1]], order[4]: "bee", table.loc[6, "image"]: "cow", order[3]: None}
    assert read.answers == by_answer
    assert read.n_unsure == 1
    assert not any(read.problems.values())
    chosen = dict(zip(table["image"], table["chosen"].replace("", "suspect"), strict=True))
    assert dict(read.chosen).items() >= {image: chosen[image] for image in by_answer}.items()
    lines = pd.read_csv(tmp_path / "got" / "checked.csv", keep_default_na=False).set_index("image")
    assert lines.loc[[order[2], order[3]], "verdict"].tolist() == ["unsure", "none"]
    assert lines.loc[[order[2], order[3]], "label"].tolist() == ["", ""]
    assert set(table.loc[table["chosen"] == "random", "image"]) <= set(lines.index)  # those that are not checked, too
    assert lines["rank"].to_dict().items() <= dict(zip(table["image"], table["rank"], strict=True)).items()


def test_what_a_run_has_read_counts_more_than_what_was_answered_before_it(browser: Browser, tmp_path: Path) -> None:
    table = rows(7, n_random=0)
    browser.open(write(tmp_path / "s.html", table, finding=found(7, at_most=1.0)).path)
    browser.press("s", "s", "s", "u")
    table.loc[[0, 1], "label"] = ["cow", "cow"]  # edited by hand in checked.csv; of the third the page alone knows
    browser.open(write(tmp_path / "s.html", table, finding=found(7, at_most=1.0)).path)

    def said() -> dict[str, str]:
        see_all_cards(browser)
        return dict(zip(texts(browser, ".own figcaption"), texts(browser, ".answer"), strict=True))

    assert [said()[image] for image in table["image"][:5]] == ["Checked: cow", "Checked: cow", "Checked: ant", "Checked: unsure", ""]
    browser.click("li:nth-child(6) button[data-value='none']")  # the first image, which comes last now
    browser.reload()
    assert said()[table.loc[0, "image"]] == "Checked: not of any class"


def test_nothing_of_a_name_becomes_a_part_of_the_page(browser: Browser, tmp_path: Path) -> None:
    classes = [EVIL, "__proto__", "<b>x</b>"]
    table = rows(6, n_random=1, classes=classes, names=NAMES)
    made = write(tmp_path / "s.html", table, classes=classes, links={"images": "images"})
    browser.open(made.path)
    assert texts(browser, ".own figcaption")[0] == EVIL
    assert browser.run("document.title") == "Labels to check"
    assert browser.run("[document.querySelectorAll('b b, img:not([width])').length, document.scripts.length]") == [
        0,
        2 + len(made_pictures(browser)),
    ]
    browser.press("1", "2", "3")
    read = expert_labels.read_audit(downloaded(browser, tmp_path / "got"), images=table["image"], judged=table["image"], classes=classes)
    assert sorted(read.labels.values()) == sorted(classes)
    assert not any(read.problems.values())


def made_pictures(browser: Browser) -> list[Any]:
    """Sizes of the pictures that the page holds."""
    return list(browser.run("JSON.parse(document.getElementById('facts').textContent).pictures"))


def test_near_copies_are_one_decision_until_somebody_takes_them_apart(browser: Browser, tmp_path: Path) -> None:
    table = rows(8, n_random=0)
    table.loc[[0, 3, 7], "group"] = "one"
    browser.open(write(tmp_path / "s.html", table, finding=found(8, at_most=1.0)).path)
    assert len(texts(browser, ".card")) == 6
    assert "3 near copies, one decision" in texts(browser, ".card h2")[0]
    browser.press("2")
    assert texts(browser, "#progress-text") == ["3 of 8 suspects checked"]
    browser.click(".card .plain")
    assert len(texts(browser, ".card")) == 8
    browser.press("n")
    assert texts(browser, "#progress-text") == ["3 of 8 suspects checked"]
    lines = pd.read_csv(downloaded(browser, tmp_path / "got"), keep_default_na=False).set_index("image")
    assert lines.loc[table.loc[[0, 3, 7], "image"], "verdict"].tolist() == ["none", "label", "label"]


def test_select_boxes_buttons_and_filters_do_what_keys_do(browser: Browser, tmp_path: Path) -> None:
    browser.open(write(tmp_path / "s.html", rows(12, n_random=3), finding=found(12, at_most=1.0)).path)
    choices = texts(browser, ".card select")[0]
    assert choices == "not checkedant (right as given)bee (suggested)cowunsurenot of any class"
    browser.run("{ const box = document.querySelector('.card select'); box.value = 'label 2'; box.dispatchEvent(new Event('change')); }")
    assert texts(browser, ".card .answer")[0] == "Checked: cow"
    browser.click(".card button[data-value='unsure']")
    assert texts(browser, ".card .answer")[0] == "Checked: unsure"
    assert browser.run("document.querySelector('.card button[data-value=unsure]').getAttribute('aria-pressed')") == "true"
    assert "unsure" in texts(browser, "#spoken")[0]
    browser.click("#undo")
    assert texts(browser, ".card .answer")[0] == "Checked: cow"

    def shown_after(name: str, value: str) -> int:
        place = f"document.getElementById('filter-{name}')"
        browser.run(f"{place}.value = {value!r}, {place}.dispatchEvent(new Event('change'))")
        return len(texts(browser, ".card:not([hidden])"))

    assert shown_after("state", "checked") == 1
    assert shown_after("state", "open") == 11
    assert shown_after("pair", "0 1") == 3
    assert shown_after("kind", "random") == 1
    assert shown_after("pair", "all") == 3
    browser.press("r", "r", "r")  # keys keep to what is shown
    assert texts(browser, "#progress-text") == ["1 of 9 suspects checked; 3 of 3 at random, 0 wrong"]


def test_everything_can_be_reached_by_the_keyboard_alone(browser: Browser, tmp_path: Path) -> None:
    browser.open(write(tmp_path / "s.html", rows(6, n_random=1), links={"labels.csv": "labels.csv"}).path)
    seen = []
    for _ in range(40):
        browser.press("Tab")
        seen.append(browser.run("(document.activeElement.textContent || document.activeElement.id).slice(0, 30)"))
        if seen[-1].startswith("Right: "):
            break
    assert [text for text in seen if text.startswith(("All labels", "Download", "Check the", "Keys"))] == [
        "All labels (labels.csv)",
        "Download checked.csv",
        "Check the 1 random image",
        "Keys",
    ]
    assert browser.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    browser.press("Enter")
    assert texts(browser, ".card .answer")[0] == "Checked: ant"
    browser.run("document.getElementById('keys-on').checked = false")  # for whoever dictates, or hits keys by chance
    browser.press("u")
    assert texts(browser, ".card .answer")[0] == "Checked: ant"


@pytest.mark.parametrize(("width", "phone"), [(1280, False), (375, True)])
def test_pictures_are_large_enough_and_nothing_is_wider_than_the_screen(browser: Browser, tmp_path: Path, width: int, phone: bool) -> None:
    sizes = {"ant/0000.png": (7, 6), "bee/0001.png": (40, 500), "cow/0002.png": (1200, 90), "sure/suggested.png": (90, 300)}
    long = "a class with a name as long as they come in practice " * 3
    table = rows(8, n_random=1, classes=[*CLASSES[:2], long]).replace({"image": {"ant/0003.png": f"ant/{'x' * 200}.png"}})
    table["group"] = table["image"]
    table.loc[[4, 5], "group"] = "two"
    made = write(
        tmp_path / "s.html",
        table.replace({"image": {f"{long}/0002.png": "cow/0002.png"}}),
        classes=[*CLASSES[:2], long],
        finding=found(8, at_most=1.0),
        originals=lambda image: picture(image, sizes.get(image, (300, 200))),
    )
    browser.open(made.path, width=width, height=800, phone=phone)
    see_all_cards(browser)
    assert browser.run("document.documentElement.scrollWidth") <= width
    boxes = (
        "[...document.querySelectorAll('%s img')].map((one) => [one.clientWidth, one.clientHeight, one.naturalWidth, one.naturalHeight])"
    )
    own, near = browser.run(boxes % ".own"), browser.run(boxes % ".near")
    assert (len(own), len(near)) == (8, 14)
    for width_px, height_px, true_width, true_height in [*own, *near]:
        assert true_width
        assert abs(width_px / height_px / (true_width / true_height) - 1) < 0.07
    assert min(max(box[:2]) for box in own) >= 200
    assert min(max(box[:2]) for box in near) >= 120
    assert own[0][:2] == [245, 210]  # 7 pixels, each 35 wide
    assert browser.run("getComputedStyle(document.querySelector('.own img')).imageRendering") == "pixelated"


def test_where_a_browser_keeps_nothing_the_page_says_so(browser: Browser, tmp_path: Path) -> None:
    refused = "Object.defineProperty(window, 'localStorage', { get() { throw new DOMException('refused', 'SecurityError'); } })"
    added = browser.ask("Page.addScriptToEvaluateOnNewDocument", source=refused)
    try:
        browser.open(write(tmp_path / "s.html", rows(6)).path)
        assert browser.run("document.getElementById('unkept').hidden") is False
        browser.press("r")
        assert texts(browser, ".card .answer")[0] == "Checked: ant"
        assert downloaded(browser, tmp_path / "got").read_text(encoding="utf-8").count("\n") == 4
    finally:
        browser.ask("Page.removeScriptToEvaluateOnNewDocument", identifier=added["identifier"])


def test_a_thousand_classes_do_not_make_a_page_of_a_million_choices(browser: Browser, tmp_path: Path) -> None:
    classes = [f"class {k:04d}" for k in range(1000)]
    made = write(tmp_path / "s.html", rows(30, n_random=0, classes=classes), classes=classes, finding=found(30, at_most=1.0))
    browser.open(made.path)
    assert browser.run("document.querySelectorAll('option').length") < 500
    browser.run("document.querySelector('.card select').focus()")
    assert browser.run("document.querySelector('.card select').options.length") == 1003
    browser.run("{ const box = document.querySelector('.card select'); box.value = 'label 999'; box.dispatchEvent(new Event('change')); }")
    assert texts(browser, ".card .answer")[0] == "Checked: class 0999"
    browser.reload()
    assert browser.run("document.querySelector('.card select').selectedOptions[0].textContent") == "class 0999"


@pytest.mark.slow
def test_a_thousand_suspects_are_seen_within_a_second(browser: Browser, tmp_path: Path) -> None:
    def photograph(image: str) -> Image.Image:
        return Image.blend(picture(image, (400, 300)), Image.effect_noise((400, 300), 60).convert("RGB"), 0.3)

    table = rows(1050, n_random=50)
    table["nearest_given"] = [f"sure/{n // 2}.png" for n in range(len(table))]
    made = write(tmp_path / "s.html", table, finding=found(1050, at_most=1.0), originals=photograph)
    assert made.n_left_out == 0
    assert made.n_bytes <= 20_000_000
    for phone in (False, True):
        painted = []
        for _ in range(3):  # other processes may be at work
            browser.open(made.path, width=375 if phone else 1280, phone=phone)
            painted.append(browser.run("performance.getEntriesByName('first-contentful-paint')[0].startTime"))
        assert min(painted) <= 1000
        browser.run("scrollTo(0, document.body.scrollHeight)")
        browser.settle()
        assert browser.run("[...document.images].every((one) => one.complete && one.naturalWidth)")
