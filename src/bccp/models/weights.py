"""Weights from elsewhere: published ones by name, and state dicts in files, ours or as they are published."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bccp.core.errors import BCCPError, nearest
from bccp.core.registries import BACKBONES, found_at
from bccp.models.architectures import AUXILIARY, ImageClassifier, Parts
from bccp.models.torchvision_compat import networks

State = dict[str, Tensor]


def published_weights(name: str, weights: str) -> Any:
    """A member of the model's torchvision enumeration of weights, or the file that holds those of one of our own."""
    if name in BACKBONES:
        place = BACKBONES.entries[name].published
        if place is None:
            raise BCCPError(f"weights={weights!r} is no file, and no weights are published for {name}: use null or a local file")
        if weights != "DEFAULT":
            raise BCCPError(
                f"weights={weights!r} is neither a file nor published for {name}: use null, a local file or DEFAULT"
                + nearest(weights, ["DEFAULT"])
            )
        return found_at(place)()
    choices = networks().get_model_weights(name)
    short = weights.removeprefix(f"{choices.__name__}.")
    if short not in choices.__members__:
        raise BCCPError(
            f"weights={weights!r} is neither a file nor published for {name}: use null, a local file, {' or '.join(choices.__members__)}"
            + nearest(short, choices.__members__)
        )
    return choices[short]


def load_file(model: ImageClassifier, path: Path, parts: Parts | None = None, *, whole: bool = False) -> None:
    """Fill a model with the weights of a file, a saved model's or, with the ``parts`` that it is made of, a published one's.

    A last layer that is for other classes starts anew (``note`` says so); where the model is wanted as a ``whole`` that is an error.
    """
    state = read_state(path / "model.pt" if path.is_dir() else path)
    ours = any(key.startswith("backbone.") for key in state)
    if not ours:
        state = _under_our_names(state, model.architecture, parts)
    wanted = model.state_dict()
    optional = {key for key in wanted if key.endswith("num_batches_tracked") or key in ("mean", "std")}
    optional |= set() if whole else {key for key in wanted if key.startswith("head.")}
    weight = state.get("head.1.weight")
    if weight is not None and weight.ndim == 2 and len(weight) != model.n_classes:
        if whole:
            raise BCCPError(
                f"{path} holds no saved model: model.json names {model.n_classes} classes, but the weights in model.pt tell {len(weight)} "
                "apart; give a folder as the step train makes it"
            )
        model.note = f"the last layer of {path} is for {len(weight)} classes, not {model.n_classes}: it starts anew"
        state = {key: value for key, value in state.items() if not key.startswith("head.")}
    for key in [*wanted, *state]:
        spoken = key.removeprefix("" if ours else "backbone.")
        if key not in state and key not in optional:
            problem = f"{spoken} is missing"
        elif key not in wanted:
            problem = f"{spoken} is unknown"
        elif key in state and state[key].shape != wanted[key].shape:
            problem = f"{spoken} has the shape {tuple(state[key].shape)}, not {tuple(wanted[key].shape)}"
        else:
            continue
        raise BCCPError(f"the weights file {path} does not fit the model {model.architecture}: {problem}; give a file made for it")
    model.load_state_dict(state, strict=False)


def read_state(path: Path) -> State:
    """The state dict in a file; nothing in the file is run."""
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files fail in every way there is
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BCCPError(f"the weights file {path} cannot be read ({reason[:120]}): give a state dict saved by torch.save") from error
    held = held.get("state_dict", held) if isinstance(held, dict) else held
    if not isinstance(held, dict) or not held or not all(isinstance(value, Tensor) for value in held.values()):
        raise BCCPError(f"the weights file {path} holds no state dict but {type(held).__name__}: save model.state_dict() by torch.save")
    return {str(key): value for key, value in held.items()}


def fill_backbone(model: ImageClassifier, path: Path, parts: Parts) -> None:
    """Fill a model's backbone with published weights, which fit; its head stays as it is."""
    state = _under_our_names(read_state(path), model.architecture, parts)
    parts.backbone.load_state_dict({key.removeprefix("backbone."): value for key, value in state.items() if key.startswith("backbone.")})


def _under_our_names(state: State, architecture: str, parts: Parts | None) -> State:
    """A published state dict with a saved model's names."""
    last, our_name = ("", str) if parts is None else (parts.last, parts.our_name)
    renamed = {}
    for key, value in state.items():
        if key.startswith(AUXILIARY.get(architecture, ("\0",))):
            continue
        if last and key.startswith(f"{last}."):
            # a 1 x 1 convolution after which only an average follows is a linear layer
            renamed["head.1" + key.removeprefix(last)] = value.flatten(1) if value.ndim > 1 else value
        else:
            # published files of the densenets have the names of an older version
            renamed["backbone." + re.sub(r"(denselayer\d+\.(?:norm|relu|conv))\.(\d\.)", r"\1\2", our_name(key))] = value
    return renamed if "head.1.bias" in renamed else {key: value for key, value in renamed.items() if not key.startswith("head.")}


def input_sides(name: str, published: Any) -> tuple[int, int]:
    """Sides of the square images that published weights of a model of torchvision are for, in px.

    Parameters
    ----------
    name : str
    published : Weights or None
        A member of the model's enumeration; None: its default one.

    Returns
    -------
    own, least : int
        The side that they were evaluated at, and the smallest that they can take.
    """
    member = published or networks().get_model_weights(name).DEFAULT
    (own,) = member.transforms().crop_size
    return own, max(member.meta["min_size"])
