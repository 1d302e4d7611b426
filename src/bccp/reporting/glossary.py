"""Words that pages use of labels, each in one sentence; ``docs/glossary.md`` has them, and those of the pipeline."""

from __future__ import annotations

from html import escape

GLOSSARY = {
    "given label": "What the name of a folder, a table or a feedback file says an image shows. It may be wrong.",
    "suggested label": "The class that is most probable for an image, once image and given label are both looked at; often the given one.",
    "P(wrong)": "The probability that a given label is wrong, from 0 to 1. Surely wrong: at least 0.9.",
    "suspect": "An image near the top of the list, which is sorted by P(wrong): its label is worth a look.",
    "drawn at random": "Images that are to be checked whatever their P(wrong): only by them the share of wrong labels is known.",
    "at least … at most": "Lower and upper end of the share of wrong labels: the mean of P(wrong), and the share of labels that the judge "
    "would have given otherwise. The second holds the judge's own mistakes, too.",
    "doubted": "A label that training does not take as it was given.",
    "judge": "A model that says what an image shows without having seen its given label.",
    "trusted images": "Their labels are right, and the judge learns from them.",
    "new images": "Their labels are judged. Without trusted images every image is judged, and there are no days.",
}
"""Sentences by term."""

ON_SUSPECTS = ("given label", "suggested label", "P(wrong)", "suspect", "drawn at random", "at least … at most", "judge")
"""Terms on the page on which labels are checked."""


def glossary(terms: tuple[str, ...] = tuple(GLOSSARY)) -> str:
    """Entries as HTML, folded."""
    entries = "".join(f"<dt><b>{escape(term)}</b></dt><dd>{escape(GLOSSARY[term])}</dd>" for term in terms)
    return f"<details><summary>Words</summary><dl>{entries}</dl></details>"
