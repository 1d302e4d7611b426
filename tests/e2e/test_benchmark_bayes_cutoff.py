"""The benchmark of the whole step, on few images."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_the_step_finds_the_features_that_the_benchmark_has_stored(home: Path, root: Path) -> None:
    sizes = ["--images", "600", "--trusted", "400", "--dimension", "512", "--classes", "3"]
    command = [sys.executable, "-m", "benchmarks.bayes_cutoff", *sizes]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "600 judged and 400 trusted images, 512 features, 3 classes" in done.stdout
    assert "GiB resident" in done.stdout
    assert float(re.search(r"auroc (\S+),", done.stdout)[1]) > 0.7
