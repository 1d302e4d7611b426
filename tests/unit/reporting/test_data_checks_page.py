"""The page of the data checks: it is whole, and nothing in it runs."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from bccp.core import config_schema
from bccp.data import checks
from bccp.reporting import data_checks_page, html
from support.checked_data import NO_LIMITS, cleaned, picture
from support.html_page import Page


def test_the_page_needs_nothing_else_and_shows_names_as_they_are(tmp_path: Path) -> None:
    nasty = "<b>'x'&\"y\"</b>"
    clean = cleaned(
        tmp_path, {f"{label}/{i}.png": picture(i + 9 * k) for k, label in enumerate((nasty.replace("/", ""), "dog")) for i in range(4)}
    )
    limits = dataclasses.replace(NO_LIMITS, imbalance=1.0, copies=0.5)
    data_checks_page.write_images(tmp_path, clean, checks.check_images(clean, limits))
    page = Page(tmp_path / data_checks_page.DATA_CHECKS_PAGE)
    assert page.open == []
    assert nasty.replace("/", "") in page.text
    assert "Within all limits (2 set)." in page.text
    assert set(config_schema.IMAGE_CHECKS) <= set(re.findall(r"\w+", page.text))
    assert all(address.startswith("data:image/png;base64,") for address in page.addresses)
    assert (tmp_path / data_checks_page.DATA_CHECKS_PAGE).stat().st_size < 200_000


def test_a_browser_is_told_to_load_nothing_for_the_page_and_to_run_nothing_in_it(tmp_path: Path) -> None:
    data_checks_page.write_page(tmp_path, "Data checks", [], [])
    (tmp_path / "report.html").write_text(html.document("Report", []), encoding="utf-8")
    told = Page(tmp_path / data_checks_page.DATA_CHECKS_PAGE).policy
    rules = {kind: sources for kind, *sources in (rule.split() for rule in told.split(";"))}
    assert rules == {"default-src": ["'none'"], "style-src": ["'unsafe-inline'"], "img-src": ["data:"]}
    assert told == Page(tmp_path / "report.html").policy  # as on every other page
