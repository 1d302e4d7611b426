"""Run the pipeline: ``python main.py [-m] [section.key=value …]``, or through ``mlflow run .``."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "src"))

from bccp.core.processes import importing

with importing(ours=True):
    from bccp.core.home import clear_scratch
    from bccp.pipeline.hydra_app import hydra_main

if __name__ == "__main__":
    status = hydra_main(sys.argv[1:])
    clear_scratch()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # every record is flushed by now; tearing down torch and friends would take another second
