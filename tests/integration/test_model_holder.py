"""The model in use, as it follows the champion: another version takes its place at once, a broken one never does."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bccp.core.errors import BCCPError
from bccp.serving.engine import following
from bccp.serving.engine.following import ModelHolder
from bccp.serving.engine.loaded_model import load_served
from bccp.tracking import registry
from support.made_up_models import TUESDAY, World


@pytest.fixture
def world(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None) -> World:
    made = World(tmp_path / "made")
    made.monday_model(monkeypatch, wrong=TUESDAY, seed=50)
    return made


class Followed:
    """A holder of ``made-up@champion``, and what it reported."""

    def __init__(self, world: World, spec: str = "models:/made-up@champion") -> None:
        self.outcomes: list[str] = []
        self.lines: list[str] = []
        options: dict[str, Any] = {"every": 0.05, "on_reload": self.outcomes.append, "emit": self.lines.append, "max_batch": 2}
        self.holder = ModelHolder(world.ledger, spec, **options)

    @property
    def version(self) -> int | None:
        return self.holder.current.version if self.holder.current else None

    def __enter__(self) -> Followed:
        self.holder.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.holder.stop()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def register(world: World, **options: Any) -> str:
    """Register a model without making it champion."""
    digest = world.model(**options)
    folder = world.ledger.fetch(f"model:{digest}")
    run_id = world.ledger.start("train")
    version = registry.register(world.ledger, "made-up", digest, run_id=run_id, write=lambda place: shutil.copytree(folder, place))
    return str(version.version)


def move(world: World, version: str) -> None:
    world.ledger.client.set_registered_model_alias("made-up", "champion", version)


def break_weights(world: World, version: str) -> Path:
    found = registry.find_version(world.ledger, f"models:/made-up/{version}")
    weights = Path(found.source.removeprefix("file://")) / "model.pt"
    weights.write_bytes(weights.read_bytes()[:1000])
    return weights


def test_it_follows_the_champion_and_keeps_the_old_one_when_the_new_one_is_broken(world: World) -> None:
    first, second, broken = (register(world, seed=seed) for seed in (1, 2, 3))
    move(world, first)
    whole = break_weights(world, broken)
    with Followed(world) as followed:
        assert (followed.version, followed.outcomes) == (1, [])
        move(world, second)
        until(lambda: followed.version == 2)
        assert followed.holder.current is not None
        assert followed.holder.current.probabilities(world.images).argmax(1)[:60].tolist() == world.label_idx[:60].tolist()
        move(world, broken)
        until(lambda: len(followed.outcomes) == 2)
        time.sleep(0.3)  # more looks
        assert (followed.outcomes, followed.version) == (["loaded", "failed"], 2)
        assert followed.lines[0] == "models:/made-up@champion is version 2 now"
        assert followed.lines[1].startswith("models:/made-up/3 cannot be loaded: ")
        assert followed.lines[1].endswith("; version 2 stays")
        assert len(followed.lines) == 2
        assert (followed.holder.state().error or "").startswith("models:/made-up/3 cannot be loaded: ")
        move(world, first)
        until(lambda: followed.version == 1)
        assert followed.holder.state().error is None
        # moved to again it is tried again, and whole by now
        shutil.copy(world.ledger.fetch(f"model:{world.model(seed=3)}") / "model.pt", whole)
        move(world, broken)
        until(lambda: followed.version == 3)
        assert followed.outcomes == ["loaded", "failed", "loaded", "loaded"]


def test_a_broken_version_is_tried_again_after_a_while(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "RETRY_SECONDS", 0.3)
    broken = register(world, seed=1)
    whole = break_weights(world, broken)
    move(world, broken)
    with Followed(world) as followed:
        assert followed.version is None
        until(lambda: len(followed.outcomes) == 2)
        assert len(followed.lines) == 1  # said once
        shutil.copy(world.ledger.fetch(f"model:{world.model(seed=1)}") / "model.pt", whole)
        until(lambda: followed.version == 1)
        assert followed.holder.state().error is None


def test_there_may_be_no_champion_yet(world: World) -> None:
    with Followed(world) as followed:
        assert followed.version is None
        assert "made-up@champion is not in the registry" in (followed.holder.state().error or "")
        move(world, register(world, seed=1))
        until(lambda: followed.version == 1)
        assert followed.holder.state().error is None


def test_without_the_registry_the_model_stays(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    move(world, register(world, seed=1))
    away, looked = threading.Event(), threading.Event()
    find_version = registry.find_version

    def find(*arguments: Any, **options: Any) -> Any:
        if away.is_set():
            looked.set()
            raise ConnectionError("connection refused by http://me:secret@registry.example")
        return find_version(*arguments, **options)

    monkeypatch.setattr(registry, "find_version", find)
    with Followed(world) as followed:
        away.set()
        assert looked.wait(30)
        until(lambda: followed.holder.state().error is not None)
        assert followed.version == 1
        assert followed.holder.state().error == "connection refused by http://registry.example"
        second = register(world, seed=2)
        move(world, second)
        away.clear()
        until(lambda: followed.version == 2)
        assert followed.holder.state().error is None


def test_a_version_that_is_named_does_not_change_and_has_to_be_there(world: World) -> None:
    move(world, register(world, seed=1))
    with Followed(world, "models:/made-up/1") as followed:
        move(world, register(world, seed=2))
        time.sleep(0.2)
        assert followed.version == 1
    with pytest.raises(BCCPError, match=r"^serve\.model=models:/made-up/7 is not in the registry"):
        Followed(world, "models:/made-up/7").holder.start()
    weights = break_weights(world, "2")
    with pytest.raises(BCCPError, match=f"{weights} cannot be read"):
        load_served(world.ledger, "models:/made-up/2")
