"""Every benchmark in turn, each in a process of its own: ``python -m benchmarks``, or ``make benchmark``."""

from __future__ import annotations

import subprocess
import sys

for name in ("speed", "preprocessing", "cp_sampling", "bayes_cutoff", "evaluation", "digits"):
    print(f"\n## {name}\n", flush=True)
    subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=True)
