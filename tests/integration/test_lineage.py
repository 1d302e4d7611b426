"""What an artifact was made with is found through the runs that made it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bccp.core.errors import BCCPError
from bccp.core.step_context import Context
from bccp.pipeline.step_runner import find_inputs
from bccp.tracking.backends import ledger_uri
from bccp.tracking.lineage import ancestor
from bccp.tracking.store import Ledger


def made(ledger: Ledger, place: Path, name: str, content: str, **inputs: str) -> str:
    """Publish an artifact, by a run with these inputs; its version."""
    folder = place / f"{name}-{len(list(place.iterdir()))}"
    folder.mkdir()
    (folder / "content.txt").write_text(content, encoding="utf-8")
    run_id = ledger.start(name, tags={f"bccp.input.{artifact}": version for artifact, version in inputs.items()})
    version, _ = ledger.publish(run_id, name, folder)
    ledger.end(run_id, "FINISHED")
    return version


def test_the_nearest_of_several_and_the_newest_is_found_whatever_stands_in_between(home: Path, tmp_path: Path) -> None:
    ledger, place = Ledger(ledger_uri(None)[0]), tmp_path / "made"
    place.mkdir()
    data = made(ledger, place, "segregated_data", "data")
    old, new = (made(ledger, place, "monday_model", text, segregated_data=data) for text in ("old", "new"))
    labels = made(ledger, place, "cleansed_labels", "labels", segregated_data=data, monday_model=old)
    model = made(ledger, place, "model", "weights", segregated_data=data, cleansed_labels=labels)
    assert ancestor(ledger, {"model": model, "segregated_data": data}, "monday_model") == old
    assert made(ledger, place, "cleansed_labels", "labels", segregated_data=data, monday_model=new) == labels
    assert ancestor(ledger, {"model": model}, "monday_model") == new
    started_from = made(ledger, place, "model", "others", cleansed_labels=f"true_labels:{labels}", monday_model=old)
    assert ancestor(ledger, {"model": started_from}, "monday_model") == old
    assert ancestor(ledger, {"model": model}, "replay_sample") is None
    assert ancestor(ledger, {"model": "f" * 64}, "monday_model") is None, "it came from elsewhere"
    standing_in = made(ledger, place, "model", "more", cleansed_labels=f"true_labels:{'e' * 64}", segregated_data=data)
    assert ancestor(ledger, {"model": standing_in}, "monday_model") is None


def test_a_step_alone_reads_the_images_that_its_splits_index_and_no_others(home: Path, tmp_path: Path) -> None:
    ledger, place = Ledger(ledger_uri(None)[0]), tmp_path / "made"
    place.mkdir()
    images, others = (made(ledger, place, "clean_data", text) for text in ("images", "others"))
    folder = place / "splits"
    folder.mkdir()
    (folder / "clean_data.json").write_text(json.dumps({"clean_data": images}), encoding="utf-8")
    splits = ledger.import_artifact("segregated_data", folder)
    labels = made(ledger, place, "cleansed_labels", "labels")
    context = Context(ledger.uri, "disabled", None, "bccp", True, "alone", 1)
    named = {"segregated_data": f"segregated_data:{splits[:12]}", "cleansed_labels": f"cleansed_labels:{labels}"}
    expected = {"clean_data": images, "segregated_data": splits, "cleansed_labels": labels}
    assert find_inputs("cp_sampling", named, context, ledger) == (expected, {})
    assert find_inputs("cp_sampling", named | {"clean_data": f"clean_data:{images[:12]}"}, context, ledger) == (expected, {})
    with pytest.raises(BCCPError, match=f"segregated_data:{splits[:12]} indexes clean_data:{images[:12]}, not clean_data:{others}"):
        find_inputs("cp_sampling", named | {"clean_data": f"clean_data:{others}"}, context, ledger)
    with pytest.raises(BCCPError, match=r"the step cp_sampling needs segregated_data=segregated_data:<digest>"):
        find_inputs("cp_sampling", {"cleansed_labels": labels}, context, ledger)
