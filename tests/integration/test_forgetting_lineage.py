"""What derives from an image goes, and nothing else: other data, and what comes out of it in the same way, stays."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bccp.serving.forgetting import recorded_runs
from bccp.serving.forgetting.forget import forget_image, forget_user
from bccp.serving.forgetting.subjects import Image, User
from bccp.tracking.tags import FOLDER_TAG, INPUT_PREFIX, KEY_PARTS_TAG, PIPELINE_TAG, REUSED_PREFIX, STEP_TAG
from support.home_search import places_with
from support.stub_steps import all_runs, ledger

SHA = "ab" * 32


class Recorded:
    """Runs that are made up in the home's store."""

    def __init__(self, tmp_path: Path) -> None:
        self.store, self._tmp_path, self.ids = ledger(), tmp_path, dict[str, str]()

    def pipeline(self, name: str, **params: str) -> str:
        run_id = self.store.start(name, tags={PIPELINE_TAG: name, FOLDER_TAG: str(self.store.home / "outputs" / name)})
        self.store.log_params(run_id, {key.replace("__", "."): value for key, value in params.items()})
        self.ids[name] = run_id
        return run_id

    def step(
        self, name: str, parent: str, step: str, made: dict[str, dict[str, str]], *read: str, key: dict[str, str] | None = None
    ) -> dict[str, str]:
        """A finished run of a step or of shared work; the versions that it made, by name."""
        tags = {STEP_TAG: step} | {f"{INPUT_PREFIX}{one.partition(':')[0]}": one.partition(":")[2] for one in read}
        run_id = self.store.start(name, parent=parent, tags=tags)
        versions = {}
        for artifact, files in made.items():
            folder = self._tmp_path / name / artifact
            folder.mkdir(parents=True)
            for file, text in files.items():
                (folder / file).write_text(text)
            versions[artifact] = f"{artifact}:{self.store.publish(run_id, artifact, folder)[0]}"
        if key is not None:
            self.store.tag(run_id, {KEY_PARTS_TAG: json.dumps({"shared": step, "parameters": key})})
        self.store.end(run_id, "FINISHED")
        self.ids[name] = run_id
        return versions

    def end(self, *names: str) -> None:
        for name in names:
            self.store.end(self.ids[name], "FINISHED")

    def named(self, ids: set[str]) -> set[str]:
        return {name for name, run_id in self.ids.items() if run_id in ids}


@pytest.fixture
def two(home: Path, tmp_path: Path) -> Recorded:
    """Pipelines on different data, of which one has the image; an empty sample is the same in both, and one read the other's features."""
    made = Recorded(tmp_path)
    for number, sha in (("1", SHA), ("2", "cd" * 32)):
        parent = made.pipeline(f"pipeline{number}")
        files = {"files.csv": f"image,bytes,sha256\na.png,1,{sha}\n"}
        raw = made.step(f"fetch{number}", parent, "fetch_data", {"raw_data": files})
        clean = made.step(f"clean{number}", parent, "preprocessing", {"clean_data": {"array": number}}, *raw.values())
        sample = made.step(f"sample{number}", parent, "cp_sampling", {"replay_sample": {"sample.csv": "image\n"}}, *clean.values())
        if number == "1":
            digest = clean["clean_data"].partition(":")[2]
            features = made.step("features", parent, "features", {"features": {"array": "1"}}, key={"pixels": "ef" * 32})
            made.step("student", parent, "student", {"student": {"array": "1"}}, key={"data": digest})
            made.step("backbone", parent, "exported_backbone", {"exported_backbone": {"file": "1"}}, key={"backbone": "0" * 64})
        read = (*clean.values(), *sample.values(), *features.values())
        made.step(f"train{number}", parent, "train", {"model": {"model.pt": number}}, *read)
    made.pipeline("again")
    made.store.tag(made.ids["again"], {f"{REUSED_PREFIX}preprocessing": made.ids["clean1"]})
    made.end("pipeline1", "pipeline2", "again")
    return made


def test_only_what_derives_from_the_image_is_found(two: Recorded) -> None:
    found = recorded_runs.find_runs(Image(SHA), two.store)
    assert two.named(found.ids) == {"fetch1", "clean1", "sample1", "train1", "features", "student", "pipeline1", "again"}
    assert [run.info.run_id for run in found.runs][-1] == two.ids["fetch1"]  # by which all else is found
    assert {version.partition(":")[0] for version in found.versions} == {"raw_data", "clean_data", "features", "student", "model"}
    assert found.direct == {two.ids["fetch1"]}


def test_what_others_need_too_is_there_afterwards(two: Recorded, home: Path) -> None:
    (home / "checkpoints").mkdir()
    (home / "checkpoints" / "train-0.pt").write_bytes(b"of a training that was stopped")
    clean = two.store.client.get_run(two.ids["train1"]).data.tags[f"{INPUT_PREFIX}clean_data"]
    stopped = {STEP_TAG: "train", f"{INPUT_PREFIX}clean_data": clean}
    two.store.end(two.store.start("train", parent=two.ids["pipeline1"], tags=stopped), "KILLED")
    forget_image(SHA, purge=True)
    left = two.named({run.info.run_id for run in all_runs(two.store)})
    assert left == {"fetch2", "clean2", "sample2", "train2", "pipeline2", "backbone"}
    for name in ("replay_sample", "model", "clean_data"):
        (run,) = (run for run in all_runs(two.store) if f"bccp.output.{name}" in run.data.tags)
        ledger().fetch(f"{name}:{run.data.tags[f'bccp.output.{name}']}")
    assert not (home / "checkpoints" / "train-0.pt").exists()


def test_a_run_that_calls_columns_by_their_annotators_goes_for_good(two: Recorded, home: Path) -> None:
    named = two.pipeline("named", noisy_labels__columns='{"label": ["ann", "bob"]}', tracking__wandb_entity="ann")
    other = two.pipeline("other", noisy_labels__columns="null", tracking__wandb_entity="ann")
    for name in ("named", "other"):
        (home / "outputs" / name / ".hydra").mkdir(parents=True)
        (home / "outputs" / name / ".hydra" / "overrides.yaml").write_text("- tracking.wandb_entity=ann\n")
    two.end("named", "other")
    found = recorded_runs.find_runs(User("ann", None), two.store)
    assert found.ids == {named}
    assert places_with(home, b'["ann", "bob"]') != set()
    forget_user("ann", purge=True)
    assert places_with(home, b'["ann", "bob"]') == set()
    assert {run.info.run_id for run in all_runs(two.store)} >= {other}
    assert (home / "outputs" / "other").exists()
    assert not (home / "outputs" / "named").exists()
    with pytest.raises(Exception, match="not found"):
        two.store.client.get_run(named)
