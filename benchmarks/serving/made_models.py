"""A home whose registry holds models that the benchmark made, and the pictures that they are asked about."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from bccp.models import classifier, mlflow_flavor
from bccp.tracking import registry
from bccp.tracking.backends import ledger_uri
from bccp.tracking.store import Ledger

CLASSES = ("ant", "bee", "cat", "dog", "eel", "fox", "gnu", "hen", "ibex", "jay")

NAME = "bench"
"""Of the registered small model; its champion is what every server answers with."""

SIZES = {"small_cnn": 32, "efficientnet_lite0": 160}
"""Sides in px of the pictures that the models see."""


def small_pictures(n_pictures: int = 64, *, seed: int = 0) -> list[bytes]:
    """PNG files of 32 x 32 px, about 1.5 kB each."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(n_pictures):
        blocks = np.kron(rng.integers(0, 256, (8, 8, 3)), np.ones((4, 4, 1))) + rng.integers(-1, 2, (32, 32, 3))
        found.append(encoded(Image.fromarray(blocks.clip(0, 255).astype(np.uint8)), "PNG"))
    return found


def photographs(n_pictures: int = 16, *, seed: int = 0) -> list[bytes]:
    """JPEG files of 640 x 480 px with the sizes of photographs, about 60 kB each."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(n_pictures):
        layers = [rng.normal(128, 40, (480 // side, 640 // side, 3)) for side in (80, 16, 4)]
        grown = [np.asarray(Image.fromarray(layer.clip(0, 255).astype(np.uint8)).resize((640, 480)), np.float64) for layer in layers]
        found.append(encoded(Image.fromarray(np.mean(grown, axis=0).clip(0, 255).astype(np.uint8)), "JPEG", quality=90))
    return found


def encoded(picture: Image.Image, file_format: str, **options: Any) -> bytes:
    """A picture as a file."""
    file = io.BytesIO()
    picture.save(file, file_format, **options)
    return file.getvalue()


def cut(folder: Path) -> None:
    """Weights that end in the middle."""
    data = (folder / "model.pt").read_bytes()
    (folder / "model.pt").write_bytes(data[: len(data) // 2])


def without_description(folder: Path) -> None:
    """No ``model.json``."""
    (folder / "model.json").unlink()


def other_network(folder: Path) -> None:
    """Weights of another network than the one that ``model.json`` names."""
    torch.save({"weight": torch.zeros(3, 3)}, folder / "model.pt")


def gone(folder: Path) -> None:
    """No folder, though the registry names it."""
    shutil.rmtree(folder)


WAYS_TO_BREAK: tuple[Callable[[Path], None], ...] = (cut, without_description, other_network, gone)


@dataclass
class Made:
    """The home, its registry and the models' folders.

    Attributes
    ----------
    home : Path
        ``BCCP_HOME`` of all that is started; this process's, too, from the first use of the ledger on.
    versions : list of str
        Registered versions of :data:`NAME` that answer, oldest first.
    broken : list of str
        Those that cannot be loaded.
    """

    home: Path
    versions: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        os.environ["BCCP_HOME"] = str(self.home)
        self.ledger = Ledger(ledger_uri(None)[0])
        self.n_folders = 0

    def environment(self, **changed: str) -> dict[str, str]:
        """Environment variables of what is started: none of somebody's store or tokens."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "WANDB_", "BCCP_"))}
        paths = {"BCCP_HOME": str(self.home), "MLFLOW_TRACKING_URI": self.ledger.uri}
        return {**kept, **paths, "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", **changed}

    def folder(self, architecture: str = "small_cnn", *, seed: int = 0) -> Path:
        """A model's files, as the step train writes them; its weights are random, which no speed depends on."""
        self.n_folders += 1
        folder = self.home / "made" / f"{architecture}-{self.n_folders}"
        folder.mkdir(parents=True)
        model = classifier.build_classifier(architecture, len(CLASSES), image_size=SIZES[architecture], dropout=0.2, seed=seed)
        head = next(module for module in reversed(list(model.head.modules())) if isinstance(module, torch.nn.Linear))
        torch.nn.init.normal_(head.weight, std=0.5, generator=torch.Generator().manual_seed(seed))  # answers that differ between pictures
        classifier.save_classifier(model.eval(), folder, {"class_names": list(CLASSES), "resize": "stretch"})
        return folder

    def register_champion(self, *, seed: int = 0) -> str:
        """The first version of :data:`NAME`, packed for MLflow as the step test packs it, and champion."""
        folder = self.folder(seed=seed)
        run_id = self.ledger.start("train", tags={})
        digest, place = self.ledger.publish(run_id, "model", folder)
        version = registry.register(
            self.ledger,
            NAME,
            digest,
            run_id=run_id,
            write=lambda packed: mlflow_flavor.write_model(packed, place, seen=np.array([], np.uint64)),
        )
        self.ledger.end(run_id, "FINISHED")
        self.versions.append(str(version.version))
        self.promote(self.versions[-1])
        return self.versions[-1]

    def register_version(self, *, seed: int, damage: Callable[[Path], None] | None = None) -> str:
        """A further version of :data:`NAME`, which nothing but this project reads; broken where ``damage`` breaks it."""
        folder = self.folder(seed=seed)
        if damage is not None:
            damage(folder)
        version = str(self.ledger.client.create_model_version(NAME, source=folder.as_uri()).version)
        (self.versions if damage is None else self.broken).append(version)
        return version

    def promote(self, version: str) -> None:
        """Move the alias."""
        self.ledger.client.set_registered_model_alias(NAME, registry.CHAMPION, version)
