"""The glossary: what pages say of a word is what the docs say, and whoever meets a word first finds it."""

from __future__ import annotations

import re

from bccp.core.paths import ROOT
from bccp.labels.findings import Finding
from bccp.reporting.glossary import GLOSSARY, ON_SUSPECTS, glossary
from bccp.reporting.review_document import Listed, review_document

TEXT = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")


def test_each_word_of_a_page_is_an_entry_of_the_docs_in_the_same_words() -> None:
    rows = dict(re.findall(r"^\| (.*?) \| (.*) \|$", TEXT, flags=re.MULTILINE))
    entries = {re.match(r"\*\*(.*?)\*\*", term)[1]: said.replace("*", "") for term, said in rows.items() if term.startswith("**")}
    assert len(entries) == len([term for term in rows if term.startswith("**")])
    for term, sentence in GLOSSARY.items():
        assert entries[term].startswith(sentence), term


def test_start_pages_link_the_glossary() -> None:
    for page in ("README.md", "docs/cleaning.md", "docs/checked_labels.md", "docs/labels.md"):
        assert "glossary.md)" in (ROOT / page).read_text(encoding="utf-8"), page


def test_the_page_of_suspects_explains_its_words() -> None:
    facts = {"key": "", "classes": [], "rows": [], "pictures": [], "carried": []}
    page = review_document(Finding("found", 0.26, 0.49, 900, 234), Listed(441, 50, 0), {}, facts=facts)
    assert glossary(ON_SUSPECTS) in page
    assert not re.search(r"(?i)cut[ -]off|given back|soften|\btier\b|monday", glossary(ON_SUSPECTS))
