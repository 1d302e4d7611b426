"""Champion and challenger, on models with made-up answers: registered once, promoted, rejected, forced, rolled back."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bccp.cli.app import call
from bccp.core.config import encode
from bccp.core.errors import BCCPError
from bccp.core.run_summary import Summary
from bccp.evaluation import promotion
from bccp.models import mlflow_flavor, predictor
from bccp.pipeline.runner import PipelineRunner
from bccp.pipeline.step_runner import resolve_external_refs
from bccp.tracking import registry, wandb_sync
from bccp.tracking.store import Ledger
from bccp.tracking.tags import MODEL_TAG
from bccp.tracking.wandb_artifacts import alias
from support.made_up_models import CLASSES, MONDAY, TUESDAY, World
from support.wandb_stand_in import WandbStandIn

NAME = "made-up"


@pytest.fixture
def world(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None) -> World:
    """With a Monday model that is right on Monday only."""
    made = World(tmp_path / "made")
    made.monday_model(monkeypatch, wrong=TUESDAY, seed=50)
    return made


def champion(world: World) -> str | None:
    version = registry.champion(world.ledger, NAME)
    return None if version is None else str(version.version)


def verdict(world: World, model: str, **options: Any) -> tuple[str, str]:
    tags = world.tags(world.test(model, **options))
    return tags["bccp.verdict"], tags["bccp.verdict_reason"]


def test_promote_reject_force_and_roll_back(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    poor, good, worse = world.model(wrong=TUESDAY[:20], seed=1), world.model(wrong=TUESDAY[:6], seed=2), world.model(wrong=MONDAY, seed=3)
    name, reason = verdict(world, poor)
    assert (name, champion(world)) == ("promoted", "1")
    assert reason.startswith("overall +33.3 points (")
    assert reason.endswith("on 60 images, against monday_model")

    assert verdict(world, poor) == ("unchanged", "it is the champion already")
    assert verdict(world, good)[0] == "promoted"
    name, reason = verdict(world, worse)
    assert (name, champion(world)) == ("rejected", "2")
    assert reason.startswith("worse by 100.0 points on monday, more than test.max_regression=0.01; overall -23.3 points (")
    assert "registered as made-up, version 3; rejected (champion, version 2): worse by" in capsys.readouterr().out

    name, reason = verdict(world, worse, promote="force")
    assert (name, champion(world)) == ("forced", "3")
    assert reason.startswith("test.promote=force; worse by")
    versions = {str(v.version): v for v in world.ledger.client.search_model_versions(f"name = '{NAME}'")}
    assert {number: version.tags[MODEL_TAG] for number, version in versions.items()} == {"1": poor, "2": good, "3": worse}
    assert [versions[number].tags["bccp.verdict"] for number in "123"] == ["promoted", "promoted", "forced"]

    capsys.readouterr()
    assert call(["rollback", "--model", NAME]) == 0
    assert capsys.readouterr().out == f"models:/{NAME}@champion is version 2 again (model:{good[:12]}); version 3 is rolled back\n"
    assert call(["rollback", "--model", NAME]) == 0
    assert champion(world) == "1"
    assert call(["rollback", "--model", NAME]) == 1
    assert capsys.readouterr().err == f"error: version 1 of '{NAME}' is the first champion: there is none before it to go back to\n"
    assert call(["rollback", "--model", "nothing"]) == 1
    assert "no model 'nothing' with a champion" in capsys.readouterr().err

    name, reason = verdict(world, good)
    assert name == "rejected"
    assert reason.startswith("it was rolled back before (test.promote=force promotes it again); overall +23.3 points")
    assert verdict(world, good, promote="force")[0] == "forced"
    assert call(["rollback", "--model", NAME]) == 0
    assert champion(world) == "1"


def test_never_and_multiruns_register_and_compare_but_promote_nothing(world: World) -> None:
    good = world.model(seed=1)
    assert verdict(world, good, promote="never")[1].startswith("test.promote=never; overall +66.7 points")
    name, reason = verdict(world, good, sweep="a-sweep")
    assert name == "not asked"
    assert reason.startswith("a multirun promotes nothing; overall +66.7 points")
    assert champion(world) is None
    assert len(world.ledger.client.search_model_versions(f"name = '{NAME}'")) == 1


def test_a_job_of_a_multirun_has_the_key_of_one_that_promotes_nothing(world: World, tmp_path: Path) -> None:
    for sweep, promote in ((None, "auto"), ("a-sweep", "never")):
        assert PipelineRunner(world.config(), tmp_path, Summary(), sweep=sweep).config.test.promote == promote


@pytest.mark.slow
def test_verdicts_and_the_champion_are_aliases_in_wandb_and_the_champions_goes_to_the_next_and_back(
    server: WandbStandIn, world: World
) -> None:
    poor, good, worse = world.model(wrong=TUESDAY[:20], seed=1), world.model(seed=2), world.model(wrong=MONDAY, seed=3)
    pipeline = world.ledger.start("pipeline")
    tracking = dataclasses.asdict(world.config().tracking) | {"wandb": "online"}
    world.ledger.log_params(pipeline, {f"tracking.{key}": encode(value) for key, value in tracking.items()})
    for model, said, expected in ((poor, "promoted", poor), (poor, "unchanged", poor), (good, "promoted", good), (worse, "rejected", good)):
        run_id = world.test(model, wandb="online").run_id
        world.ledger.tag(run_id, {"mlflow.parentRunId": pipeline})
        assert server.find("model:champion") is server.find(f"model:{alias(expected)}") is not None
        assert server.find(f"model:{said}") is server.find(f"model:{alias(model)}")
    assert call(["rollback", "--model", NAME]) == 0
    assert server.find("model:champion") is server.find(f"model:{alias(poor)}") is not None
    world.test(worse, wandb="offline", promote="never")
    assert server.find("model:not-asked") is None
    wandb_sync.sync()
    assert server.find("model:not-asked") is server.find(f"model:{alias(worse)}") is not None
    world.test(worse, wandb="online", promote="force")
    assert server.find("model:forced") is server.find("model:champion") is server.find(f"model:{alias(worse)}")


def test_who_is_champion_is_in_the_key_of_the_step(world: World) -> None:
    def meant(**options: Any) -> dict[str, str]:
        return resolve_external_refs("test", world.config(**options).test, world.ledger)

    poor, good = world.model(wrong=TUESDAY[:20], seed=1), world.model(seed=2)
    assert meant(registered_model_name=None) == {}
    assert meant() == {"champion": "none"}
    world.test(poor)
    assert meant() == {"champion": poor}
    world.test(good)
    assert meant() == {"champion": good}
    registry.roll_back(world.ledger, NAME)
    assert meant() == {"champion": f"{poor} after rollback of 2"}  # so that what was rolled back can be forced


@pytest.mark.parametrize(
    "moment", ["create_model_version", "set_model_version_tag", "set_registered_model_tag", "set_registered_model_alias"]
)
def test_a_run_that_is_stopped_in_between_is_mended_by_the_next(world: World, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    first, second = world.model(wrong=TUESDAY[:20], seed=1), world.model(seed=2)
    world.test(first)

    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(type(world.ledger.client._client), moment, stopped)
        with pytest.raises(KeyboardInterrupt):
            world.test(second)
    assert champion(world) == "1"
    assert verdict(world, second)[0] == "promoted"
    assert champion(world) == "2"
    assert len(world.ledger.client.search_model_versions(f"name = '{NAME}'")) == 2
    left, now = registry.roll_back(world.ledger, NAME)
    assert (str(left.version), str(now.version)) == ("2", "1")


def test_images_that_the_champion_was_trained_on_are_left_out_and_that_is_said(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fingerprints = mlflow_flavor.fingerprints
    seen = np.concatenate([world.images[:5], world.images[60:]])  # five of Monday's test images, say of another split

    def trained_on(digests: Any) -> Any:
        return fingerprints([hashlib.sha256(pixels.tobytes()).hexdigest() for pixels in seen])

    with monkeypatch.context() as patch:
        patch.setattr(mlflow_flavor, "fingerprints", trained_on)
        world.test(world.model(wrong=TUESDAY[:10], seed=1))
    capsys.readouterr()
    # it is wrong on the images that the champion knows by heart, which does not count
    name, reason = verdict(world, world.model(wrong=MONDAY[:5], seed=2))
    assert name == "promoted"
    assert "on 55 images" in reason
    assert "test images that the champion was trained on, left out of the comparison: 5 of 60\n" in capsys.readouterr().out


def test_a_champion_of_other_classes_is_not_compared(world: World) -> None:
    other = world.model(classes=[*CLASSES, "dog"], seed=9)
    version = registry.register(
        world.ledger,
        NAME,
        other,
        run_id=world.ledger.start("elsewhere"),
        write=lambda place: mlflow_flavor.write_model(place, world.ledger.fetch(f"model:{other}"), seen=np.array([], np.uint64)),
    )
    registry.promote(world.ledger, NAME, str(version.version))
    name, reason = verdict(world, world.model(seed=1))
    assert name == "rejected"
    assert reason.startswith("it cannot be compared with the champion, which tells other classes apart (ant, bee, cat, dog, ...)")
    assert verdict(world, world.model(seed=1), promote="force")[0] == "forced"


def test_where_nothing_is_trusted_the_first_model_is_the_champion(home: Path, tmp_path: Path, one_thread: None) -> None:
    world = World(tmp_path / "made", target_day="monday")
    name, reason = verdict(world, world.model(wrong=MONDAY, seed=1))
    assert (name, champion(world)) == ("promoted", "1")
    assert "no trusted day" in reason


def test_votes_promote_nothing_the_first_model_serves_and_later_ones_wait_for_audits(
    home: Path, tmp_path: Path, one_thread: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world = World(tmp_path / "made", n_verified=0)
    name, reason = verdict(world, world.model(seed=1))
    assert (name, champion(world)) == ("promoted", "1")
    assert reason.startswith(
        "the first of its name, unverified: 0 of the 100 verified images of tuesday that test.min_verified asks for; check"
    )
    registered = world.ledger.client.get_model_version(NAME, "1")
    assert registered.tags["bccp.unverified"] == "true"

    as_voted = world.model(wrong=TUESDAY, seed=2)  # all votes say that it is right, and the champion wrong
    name, reason = verdict(world, as_voted)
    assert (name, champion(world)) == ("held", "1")
    assert "give them as bayes_cutoff.audit_file, a CSV image,label,chosen with chosen=random" in reason
    assert "version 2; held (champion, version 1): 0 of the 100 verified images" in capsys.readouterr().out

    assert verdict(world, as_voted, promote="force")[0] == "forced"
    assert champion(world) == "2"


def test_an_audit_file_brings_down_what_the_votes_held_up(home: Path, tmp_path: Path, one_thread: None) -> None:
    world = World(tmp_path / "made", n_verified=0)
    poor, good = world.model(wrong=TUESDAY, seed=1), world.model(seed=2)
    assert verdict(world, poor)[0] == "promoted"
    audit = tmp_path / "audit.csv"
    truth = dict(zip([*MONDAY, *TUESDAY], (CLASSES[k] for k in world.label_idx), strict=False))

    def audited(chosen: str, n_images: int) -> dict[str, Any]:
        rows = [f"{image},{truth[image]},{chosen}\n" for image in TUESDAY[:n_images]]
        audit.write_text("image,label,chosen\n" + "".join(rows), encoding="utf-8")
        return {"audit_file": str(audit), "min_verified": 25}

    assert verdict(world, good, **audited("suspect", 30))[0] == "held"
    name, reason = verdict(world, good, **audited("random", 24))
    assert name == "held"
    assert reason.startswith("24 of the 25 verified images of tuesday")
    assert reason.endswith("so far overall +54.5 points (+54.5 to +54.5) on 44 images")
    assert verdict(world, good, **audited("random", 25))[0] == "promoted"
    assert world.ledger.client.get_model_version(NAME, "2").tags["bccp.unverified"] == "false"


def test_a_first_model_that_verified_images_show_to_be_worse_is_rejected_and_the_line_says_how_to_force_it(
    home: Path, tmp_path: Path, one_thread: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path / "made", n_verified=30)
    world.monday_model(monkeypatch, seed=50)
    name, reason = verdict(world, world.model(wrong=TUESDAY[:9], seed=1), min_verified=30)
    assert (name, champion(world)) == ("rejected", None)
    assert reason.startswith("worse by 30.0 points on tuesday, more than test.max_regression=0.01; overall -18.0 points")
    assert reason.endswith("on 50 images, against monday_model; bccp promote made-up/1 --force promotes it all the same")


@pytest.mark.parametrize(("n_worse", "vetoed"), [(1, False), (6, True)])
def test_a_day_vetoes_by_resamples_and_not_by_a_single_image(n_worse: int, vetoed: bool) -> None:
    days = ["monday"] * 100 + ["tuesday"] * 24
    champion, challenger = np.zeros(124, bool), np.zeros(124, bool)
    champion[100 : 100 + n_worse], challenger[:50] = True, True
    found = promotion.compare_models(days, challenger, champion, rng=np.random.default_rng(0))
    decided = promotion.decide_promotion(found, max_regression=0.01)
    assert decided.name == ("rejected" if vetoed else "promoted")
    assert decided.reason.startswith("worse by 25.0 points on tuesday") is vetoed


def test_a_version_is_promoted_by_hand_if_it_was_the_better_one_and_else_by_force_alone(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    def promote(*words: str) -> tuple[int, str]:
        status = call(["promote", *words])
        said = capsys.readouterr()
        return status, said.out if status == 0 else said.err

    good, worse = world.model(wrong=TUESDAY[:6], seed=1), world.model(wrong=MONDAY, seed=2)
    verdict(world, good, promote="never")
    verdict(world, worse, promote="never")
    assert promote("made-up/2", "--force=False")[0] == 2, "a flag, and no text that is true whatever it says"
    assert promote(f"models:/{NAME}/1") == (0, f"models:/{NAME}@champion is version 1 (promoted)\n")
    assert promote(f"{NAME}/1") == (0, f"version 1 of {NAME} is the champion already\n")
    status, said = promote(NAME)
    assert status == 1
    assert said.startswith(
        f"error: version 2 of {NAME} is not promoted, as it was rejected: test.promote=never; worse by 100.0 points on monday"
    )
    assert said.endswith(f": bccp promote {NAME}/2 --force does it all the same\n")
    assert champion(world) == "1"
    assert promote(NAME, "--force") == (0, f"models:/{NAME}@champion is version 2 in place of version 1 (forced)\n")
    tags = world.ledger.client.get_model_version(NAME, "2").tags
    assert (tags["bccp.verdict"], champion(world)) == ("forced", "2")
    assert tags["bccp.verdict_reason"].startswith("bccp promote --force; it was rejected: test.promote=never; worse by 100.0 points")
    status, said = promote(f"{NAME}/1")
    assert "it was compared with no champion, while the champion is 2" in said
    assert call(["rollback", "--model", NAME]) == 0
    assert champion(world) == "1"
    capsys.readouterr()
    assert "not promoted, as it was rolled back" in promote(f"{NAME}/2")[1]
    assert "is not in the registry" in promote(f"{NAME}/9")[1]
    assert "no model 'nothing' is registered" in promote("nothing")[1]


def test_the_interval_of_a_gain_is_that_of_drawing_images_one_by_one() -> None:
    rng = np.random.default_rng(1)
    days = np.repeat(["monday", "tuesday"], [50, 150])
    champion, challenger = rng.random(200) < 0.8, rng.random(200) < 0.85
    found = promotion.compare_models(days, challenger, champion, rng=np.random.default_rng(2))
    slow = []
    for _ in range(4000):
        drawn = np.concatenate([rng.choice(np.flatnonzero(days == day), (days == day).sum()) for day in ("monday", "tuesday")])
        slow.append(challenger[drawn].mean() - champion[drawn].mean())
    assert found.gain == pytest.approx(challenger.mean() - champion.mean())
    # the standard error of a percentile of 4000 draws is about 0.001
    assert [found.low, found.high] == pytest.approx(np.percentile(slow, [2.5, 97.5]), abs=0.006)
    assert found.ahead == pytest.approx(np.mean(np.array(slow) > 0), abs=0.03)
    assert found.by_day == pytest.approx(
        {day: challenger[days == day].mean() - champion[days == day].mean() for day in ("monday", "tuesday")}
    )


def test_equal_models_are_seldom_promoted() -> None:
    """Two models of one accuracy: the challenger wins in about 5% of the cases, at most in 12% (100 draws, three standard errors)."""
    rng = np.random.default_rng(3)
    verdicts = [
        promotion.decide_promotion(
            promotion.compare_models(["monday"] * 200, rng.random(200) < 0.8, rng.random(200) < 0.8, rng=np.random.default_rng(0)),
            max_regression=1,
        )
        for _ in range(100)
    ]
    assert 0 < np.mean([verdict.promotes for verdict in verdicts]) < 0.12


def test_a_packed_model_answers_as_the_model_itself_and_holds_no_pickle(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow.pyfunc

    monkeypatch.setattr(sys, "path", [*sys.path])  # MLflow puts the model's code in front
    version = world.model(seed=1)
    mlflow_flavor.write_model(tmp_path / "packed", world.ledger.fetch(f"model:{version}"), seen=np.array([3, 1], np.uint64))
    assert not [path for path in (tmp_path / "packed").rglob("*") if path.suffix in (".pkl", ".pickle", ".cloudpickle")]
    loaded = mlflow.pyfunc.load_model(str(tmp_path / "packed"))
    example = loaded.input_example
    assert len(example) == 2
    said = loaded.predict(example)
    own = predictor.load_predictor(world.ledger.fetch(f"model:{version}")).answers(example["image"].tolist())
    assert said["class"].tolist() == [answer.label for answer in own]
    assert said["probability"].tolist() == pytest.approx([answer.probability for answer in own])

    from mlflow.pyfunc.scoring_server import invocations

    def post(body: Any, content_type: str = "application/json") -> Any:
        text = body if isinstance(body, str) else json.dumps(body)
        return json.loads(invocations(text, content_type, loaded, loaded.metadata.get_input_schema()).response)["predictions"]

    file = example["image"][0]
    text = base64.b64encode(file).decode()
    for answers in (
        *(post(body) for body in ({"inputs": [text]}, {"inputs": text}, {"instances": [text]}, {"instances": [{"image": text}]})),
        post(pd.DataFrame({"image": [text]}).to_csv(index=False), "text/csv"),
        *(
            loaded.predict(value).to_dict("records")
            for value in (file, [file], text, pd.DataFrame({"image": [bytearray(file)]}), [Image.open(io.BytesIO(file))])
        ),
    ):
        assert [answer["class"] for answer in answers] == [own[0].label]
    mixed = loaded.predict(pd.DataFrame({"image": [Path("/photos/cat.jpg"), file, None, memoryview(file)]}))
    assert mixed["class"].tolist() == [None, own[0].label, None, own[0].label]
    assert [str(error).partition(":")[0] for error in mixed["error"]] == ["a value of type PosixPath", "None", "no value", "None"]
    assert "give the bytes of an image file" in post({"inputs": ["/photos/cat.jpg"]})[0]["error"]


def test_a_damaged_registry_is_told_in_one_sentence(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.exceptions import MlflowException

    def refuses(*_: Any, **__: Any) -> None:
        raise MlflowException("quota\nof models")

    monkeypatch.setattr(type(world.ledger.client._client), "create_registered_model", refuses)
    with pytest.raises(BCCPError, match=r"test\.registered_model_name='made-up' is refused by sqlite:.*: quota$"):
        world.test(world.model(seed=1))


def test_a_model_that_is_registered_can_be_opened_by_its_name(world: World) -> None:
    digest = world.model(seed=1)
    world.test(digest)
    ledger = Ledger(world.ledger.uri)
    place = registry.fetch_model(ledger, registry.find_version(ledger, f"models:/{NAME}@champion"), world.place)
    assert predictor.load_predictor(place).classes == CLASSES
    assert (place / mlflow_flavor.TRAINED_ON).is_file()
