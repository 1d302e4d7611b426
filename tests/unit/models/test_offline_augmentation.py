"""Augmented training set of a stated size: how it is written, and options that contradict it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from bccp.core import config
from bccp.core.errors import BCCPError
from bccp.core.paths import ROOT
from bccp.models import offline_augmentation, transforms

pytestmark = pytest.mark.usefixtures("one_thread", "bare_home")

SIZE = 60


def test_what_is_written_does_not_depend_on_how_many_images_are_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images: Any = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        change = transforms.changes("rotate", image_size=16)
        offline_augmentation.write_augmented(tmp_path / name, images, list("vwxyz"), 12, change, generator=torch.Generator().manual_seed(1))
        monkeypatch.setattr(offline_augmentation, "CHUNK_IMAGES", 3)
    assert (tmp_path / "a" / "images.npy").read_bytes() == (tmp_path / "b" / "images.npy").read_bytes()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"augmentation": "none"}, "train.augment_to=60 needs something to augment with: set train.augmentation"),
        ({"mixup_alpha": 0.2}, "without augmenting them further: set train.mixup_alpha=0 and train.cutmix_alpha=0"),
        ({"cutmix_alpha": 0.2}, "without augmenting them further"),
        ({"augment_to": 1}, "train.augment_to=1 is out of range: give a number from 2 up"),
    ],
)
def test_what_contradicts_it_is_refused_early(changes: dict[str, Any], sentence: str) -> None:
    loaded: Any = OmegaConf.load(ROOT / "config.yaml")
    del loaded["defaults"], loaded["hydra"]
    for name, value in ({"augment_to": SIZE} | changes).items():
        loaded.train[name] = value
    with pytest.raises(BCCPError) as refused:
        config.load(loaded, base=ROOT)
    assert sentence in str(refused.value)
