"""The device and the floating-point types that a step computes with, found out without importing torch."""

from __future__ import annotations

import functools
import os
import platform
import re
import sys
from pathlib import Path
from typing import Any

from bccp.core.errors import BCCPError
from bccp.core.runtime.requirements import installed_version


def device_type() -> str:
    """``cuda``, ``mps`` or ``cpu``, told without importing torch: a CUDA build beside a driver and a visible device, or Apple silicon."""
    version, visible = installed_version("torch"), os.environ.get("CUDA_VISIBLE_DEVICES", "all") not in ("", "-1")
    if not version:
        return "cpu"
    if "+cpu" not in version and visible and Path("/proc/driver/nvidia/version").exists():
        return "cuda"
    return "mps" if sys.platform == "darwin" and platform.machine() == "arm64" else "cpu"


def training_device(section: Any) -> str:
    """The device that the step ``train`` trains on, as :func:`device_type` names it.

    Parameters
    ----------
    section : Train
        Its ``accelerator`` and ``precision``.

    Raises
    ------
    BCCPError
        If it is not there, or cannot have that precision.
    """
    here = device_type()
    device: str = here if section.accelerator == "auto" else section.accelerator
    if device not in (here, "cpu"):
        raise BCCPError(f"train.accelerator={device} is not here: use auto or cpu{f', or {here}' if here != 'cpu' else ''}")
    if section.precision == "float16" and device != "cuda":
        raise BCCPError(f"train.precision=float16 needs a CUDA device, but training would run on {device}: use float32 or bfloat16")
    return device


@functools.cache
def features_dtype(device: str) -> str:
    """What a frozen backbone computes in: ``bfloat16`` where the device has instructions for it, else ``float32``; told without torch.

    Only torch can tell of a GPU: here it is ``bfloat16`` for every one, and :mod:`bccp.models.feature_cache` asks torch.
    """
    if device == "cpu":
        try:
            flags = re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace"), flags=re.MULTILINE)
        except OSError:
            flags = None
        return "bfloat16" if flags and {"avx512_bf16", "amx_bf16"} & set(flags[1].split()) else "float32"
    return "bfloat16" if device == "cuda" else "float32"
