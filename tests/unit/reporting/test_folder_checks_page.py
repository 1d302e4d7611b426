"""The page on what else a folder hides: pictures and a verdict for each check, and nothing that it would load or run."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from PIL import Image

from bccp.data.folder_checks import FolderCheck, FolderChecks
from bccp.reporting.folder_checks_page import FOLDER_CHECKS_PAGE, HEADINGS, MOST_GROUPS, MOST_PICTURES, write_folder_checks_page
from support.checked_data import picture
from support.html_page import Page

NASTY = "<b>'x'&\"y\"</b>"


def original(image: str) -> Image.Image:
    if "gone" in image:
        raise KeyError(image)
    return picture(len(image), (300, 200))


def checks(found: dict[str, int], rows: list[tuple[str, int, int, str, str, str]], cues: tuple[str, ...] = ()) -> FolderChecks:
    told = tuple(
        FolderCheck(check, found.get(check, 0), f"verdict on {check}", cues if check == "cues" else ()) for check in reversed(HEADINGS)
    )
    return FolderChecks(500, 470, told, pd.DataFrame(rows, columns=["check", "group", "rank", "image", "label", "value"]))


def written(folder: Path, found: FolderChecks) -> Page:
    write_folder_checks_page(folder / FOLDER_CHECKS_PAGE, found, original, links={"Labels to check": "suspects.html"})
    assert [path.name for path in folder.iterdir()] == [FOLDER_CHECKS_PAGE]
    return Page(folder / FOLDER_CHECKS_PAGE)


def test_each_check_has_its_verdict_and_its_pictures_with_names_as_they_are(tmp_path: Path) -> None:
    rows = [("dark", 0, n, f"{n:03d}.jpg", "cat", "0.97") for n in range(1, 41)]
    rows += [("outliers", 0, 1, f"{NASTY}.jpg", NASTY, "0.0013"), ("outliers", 0, 2, "gone.jpg", "cat", "0.002")]
    rows += [("copies", n, m, f"{n}-{m}.png", "dog", "") for n in range(1, 20) for m in range(1, 7)]
    rows += [("cues", 1, 1, "own.png", "cat", "PNG"), ("cues_others", 1, 1, "other.jpg", "dog", "JPEG")]
    page = written(
        tmp_path, checks({"dark": 40, "outliers": 2, "copies": 19, "cues": 1}, rows, (f"the format alone gives {NASTY!r} away",))
    )
    assert page.open == []
    assert all(f"Verdict on {check}." in page.text for check in HEADINGS)
    assert page.text.index("Images of no class") < page.text.index("Dark pictures")  # in the order of the page, not of the checks
    assert f"{NASTY}.jpg" in page.text
    assert f"{NASTY} ; expected by chance: 0.0013".replace(" ;", ";") in page.text
    assert f"The format alone gives {NASTY!r} away" in page.text
    assert "no picture" in page.text
    assert "cat; PNG" in page.text
    assert "dog; JPEG" in page.text
    assert f"These are {MOST_PICTURES} of 40; folder_checks.csv lists them all." in page.text
    assert f"These are {MOST_GROUPS} of 19" in page.text
    assert "and 2 more" in page.text
    pictures = [address for address in page.addresses if address.startswith("data:image/webp;base64,")]
    assert len(pictures) == MOST_PICTURES + 1 + MOST_GROUPS * 4 + 2
    assert set(page.addresses) - set(pictures) == {"suspects.html", "#dark", "#outliers", "#copies", "#cues"}


def test_the_page_may_load_and_run_nothing(tmp_path: Path) -> None:
    policy = {kind: sources for kind, *sources in (rule.split() for rule in written(tmp_path, checks({}, [])).policy.split(";"))}
    assert policy == {"default-src": ["'none'"], "style-src": ["'unsafe-inline'"], "img-src": ["data:"]}


def test_a_clean_folder_shows_the_farthest_images_and_says_that_nothing_was_found(tmp_path: Path) -> None:
    page = written(tmp_path, checks({}, [("farthest", 0, 1, "a.jpg", "cat", "3.2")]))
    assert "500 images, 470 of them different. Nothing was found beside the labels." in page.text
    assert "The farthest images" in page.text
    assert "cat; expected by chance: 3.2" in page.text
