"""Brings images from a source, and packs them.

Reads the place that ``data.source`` and ``data.path`` name. Writes ``raw_data``: ``images.zip`` (its entries are the image ids) and
``files.csv`` (size and SHA-256 of each).
"""

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, json.loads(os.environ.get("BCCP_CONTEXT", "{}")).get("package") or str(Path(__file__).resolve().parents[1] / "src"))

from bccp.core.errors import few
from bccp.core.home import home
from bccp.core.step_context import Step
from bccp.data import sources, tables
from bccp.pipeline.step_runner import command_line


def run(step: Step) -> None:
    """Fetch and pack in one stream; save; report."""
    with step.output("raw_data") as folder:
        fetched = sources.fetch(step.config, folder / "images.zip", cache=home() / "data", fetch_ledger=step.ledger.fetch)
        tables.write(fetched.files, folder / "files.csv")
    count, size = len(fetched.files), int(fetched.files["bytes"].sum())
    step.log_metrics({"files": count, "bytes": size, "left_out": (left_out := sum(fetched.left_out.values()))})
    hidden = f", {left_out} hidden or system files left out ({few(list(fetched.left_out))})" if left_out else ""
    step.emit(f"{count} files, {size / 1e6:.1f} MB from {step.config.source}{hidden}")


if __name__ == "__main__":
    command_line(run)
