"""`bccp why`: what it says of a step, in the order in which a user meets it; nothing is run."""

from __future__ import annotations

from pathlib import Path

import pytest

from bccp.cli.app import call
from bccp.pipeline import explain
from bccp.tracking.backends import ledger_uri
from bccp.tracking.store import Ledger
from support.stub_steps import FEW, Stubs, all_runs, plan, run

TWO = "main.execute_steps=[fetch_data,preprocessing]"


@pytest.fixture
def ledger(home: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    Stubs(monkeypatch)
    return Ledger(ledger_uri(None)[0])


def explained(ledger: Ledger, step: str, *options: str) -> list[str]:
    return [line for one in explain.explain(step, plan(*options), Ledger(ledger.uri)) for line in one.lines()]


def test_in_a_new_home_the_first_step_has_never_finished_and_comes_before_all_others(ledger: Ledger) -> None:
    never = "fetch_data would run: it has never finished here"
    assert explained(ledger, "fetch_data") == [never]
    assert explained(ledger, "train") == [
        never,
        "train: fetch_data would have to run first, and until then it is not known what train reads",
    ]


def test_what_has_finished_is_reused_until_something_changes_which_is_named(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = run()["runs"]
    for step in ("fetch_data", "noisy_labels", "train"):
        assert explained(ledger, step) == [f"{step} would be reused: run {runs[step][:8]} has the same key, and its outputs are intact"]
    differs = f"train would run: what differs from the nearest finished run, {runs['train'][:8]}, is"
    assert explained(ledger, "train", "train.epochs=7") == [differs, "  train.epochs 30 → 7"]
    before = explain.Plan.key

    def changed(self: explain.Plan, name: str, ledger: Ledger) -> object:
        key, parts = before(self, name, ledger)
        return (
            ("k", parts | {"code": parts["code"] | {"src/bccp/models/fitting/training.py": "0" * 16}}) if name == "train" else (key, parts)
        )

    monkeypatch.setattr(explain.Plan, "key", changed)
    assert explained(ledger, "train") == [differs, "  src/bccp/models/fitting/training.py changed"]


def test_of_several_finished_runs_the_nearest_is_compared(ledger: Ledger) -> None:
    near = run("preprocessing.image_size=7", "preprocessing.resize=pad", TWO)["runs"]["preprocessing"]
    run("preprocessing.image_size=9", "preprocessing.resize=crop", "preprocessing.max_pixels=1000", TWO)
    said = explained(ledger, "preprocessing", "preprocessing.image_size=8", "preprocessing.resize=pad")
    differs = f"preprocessing would run: what differs from the nearest finished run, {near[:8]}, is"
    assert said == [differs, "  preprocessing.image_size 7 → 8"]


def test_an_earlier_step_that_would_run_is_explained_first_and_then_what_is_known_of_the_steps_after_it(ledger: Ledger) -> None:
    runs = run()["runs"]
    first = [
        f"noisy_labels would run: what differs from the nearest finished run, {runs['noisy_labels'][:8]}, is",
        "  noisy_labels.user_accuracy 0.7 → 0.6",
    ]
    later = "{0}: noisy_labels would have to run first, and until then it is not known what {0} reads"
    besides = "; what differs besides from the nearest finished run, {}, is"
    assert explained(ledger, "test", "noisy_labels.user_accuracy=0.6") == [*first, later.format("test")]
    options = ["noisy_labels.user_accuracy=0.6", "train.epochs=20", "test.top_k=2"]
    assert explained(ledger, "test", *options) == [
        *first,
        later.format("train") + besides.format(runs["train"][:8]),
        "  train.epochs 30 → 20",
        later.format("test") + besides.format(runs["test"][:8]),
        "  test.top_k 3 → 2",
    ]


@pytest.mark.parametrize("gone", [False, True])
def test_a_damaged_output_is_named(ledger: Ledger, gone: bool) -> None:
    runs = run(FEW)["runs"]
    (file,) = ledger.home.glob(f"artifacts/{runs['segregation']}/artifacts/true_labels/given.json")
    if gone:
        file.unlink()
    else:
        file.write_text("tampered")
    version = ledger.client.get_run(runs["segregation"]).data.tags["bccp.output.true_labels"]
    said = f"run {runs['segregation'][:8]} has the same key, but its output true_labels:{version[:12]} was changed or is gone"
    assert explained(ledger, "segregation") == [f"segregation would run: {said}"]


def test_what_main_says_of_a_step_comes_first(ledger: Ledger) -> None:
    only = "main.execute_steps=[noisy_labels]"
    assert explained(ledger, "segregation", only)[:1] == [
        "fetch_data would have to be added to main.execute_steps: it has never finished here"
    ]
    runs = run(FEW)["runs"]
    assert explained(ledger, "segregation", only) == [
        f"segregation is left out: the outputs of run {runs['segregation'][:8]}, which has the same key, would be used"
    ]
    assert explained(ledger, "test", only) == ["test would not run: main.execute_steps leaves it out, and no step in it needs it"]
    assert explained(ledger, "noisy_labels", "main.cache=false") == ["noisy_labels would run: main.cache=false"]


def test_the_command_explains_and_leaves_nothing(ledger: Ledger, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(FEW)
    runs, places = len(all_runs(ledger)), sorted(home.rglob("*"))
    assert call(["why", "noisy_labels", "noisy_labels.noise='pair' main.threads=2"]) == 0
    assert "  noisy_labels.noise uniform → pair" in capsys.readouterr().out
    assert len(all_runs(ledger)) == runs
    assert sorted(home.rglob("*")) == places


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "missing argument 'STEP': see bccp why --help"),
        (["", "train.epochs=1"], "which step? give one of fetch_data, preprocessing, segregation"),
        (["trian"], "unknown step 'trian' (did you mean 'train'?): the steps are fetch_data, preprocessing"),
        (["train", "train.epoch=1"], "unknown key 'train.epoch' (did you mean 'train.epochs'?)"),
        (["train", "-m train.epochs=1,2"], "one run is explained, so -m is not accepted: give OPTIONS without it"),
        (["train", "train.epochs=1,2"], "give each key one value"),
        (["train", "data.source=folder data.path=/no/such/folder"], "data.path=/no/such/folder does not exist"),
    ],
)
def test_what_cannot_be_explained_ends_with_one_sentence(
    home: Path, arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["why", *arguments]) == (1 if arguments[:1] == ["train"] else 2)
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("error: ")
    assert sentence in said
