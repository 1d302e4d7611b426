"""A search under Optuna (``hydra/sweeper=optuna``): what it looks for, and what it leaves for a single run.

Optuna's sweeper proposes, job by job, values of the keys that are swept as an interval or a choice. Its search lives in memory, and its
draws derive from ``main.random_seed``: the same command proposes the same trials again, whose finished steps are then reused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, flag_override

from bccp.core.errors import BCCPError
from bccp.core.paths import ROOT
from bccp.pipeline.sweeps import sweep

METRIC = "train/val_accuracy"
"""What a search makes as high as it can."""

BEST = "best.txt"
"""The file of the best trial's options, in the folder of the search."""

search_folders: list[Path] = []
"""The folder of the search that this process runs."""


class Search(Callback):
    """Tells Optuna's sweeper what a search means here, however it is started."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Set what has one right value; by itself the sweeper would look for the lowest accuracy, and end when a trial fails."""
        sweeper = config.hydra.sweeper
        if "optuna" not in sweeper._target_:
            return
        with flag_override(config, ["readonly", "struct"], [False, False]):
            sweeper.direction = "maximize"
            sweeper.max_failure_rate = 1.0
            if "seed" in sweeper.sampler and sweeper.sampler.seed is None:
                sweeper.sampler.seed = config.main.random_seed
        search_folders.append(Path(config.hydra.sweep.dir))


@contextmanager
def search_concluded() -> Iterator[None]:
    """Around all that the command line runs: a search ends with what it has found, or with one sentence if it has found nothing."""
    search_folders.clear()
    try:
        yield
    except HydraException as error:
        if "does not support sweep type" in str(error):
            raise BCCPError("values between two ends (interval) are for a search: add hydra/sweeper=optuna, or list the values") from error
        raise
    except ValueError as error:
        if search_folders and "No trials are completed" in str(error):
            raise BCCPError(
                f"no trial of the search gave {METRIC}: see the error of each above, and let main.execute_steps contain train"
            ) from error
        raise
    for folder in search_folders:
        print(conclude_search(folder), flush=True)


def conclude_search(folder: Path) -> str:
    """Write the best trial's options into ``best.txt``.

    Parameters
    ----------
    folder : Path
        Of the search, with one folder a trial, which holds ``summary.json`` and what Hydra writes.

    Returns
    -------
    str
        The lines to print: how many trials there were, which failed, the best one's options and how to use them.
    """
    accuracies, failed = {}, []
    for path in sorted(folder.glob("*/summary.json"), key=lambda path: (len(path.parent.name), path.parent.name)):
        found = json.loads(path.read_text(encoding="utf-8"))["metrics"].get(METRIC)
        if found is None:
            failed.append(path.parent.name)
        else:
            accuracies[path.parent.name] = found
    best = max(accuracies, key=lambda job: accuracies[job])  # the first of equals, as Optuna has it
    found = changed_options(OmegaConf.load(folder / best / ".hydra" / "config.yaml"))
    options = " ".join(option for option in found if option not in sweep.added())  # one run has all the cores
    (folder / BEST).write_text(options + "\n", encoding="utf-8")
    note = f" ({len(failed)} failed: {', '.join(failed)})" if failed else ""
    return (
        f"{len(accuracies) + len(failed)} trials{note}; the best is {best} with {METRIC} {accuracies[best]:.4f}:\n  {options}\n"
        f'one run with these options: python main.py --hydra-options="$(cat {folder / BEST})"'
    )


def changed_options(composed: Any) -> list[str]:
    """The overrides that make ``config.yaml`` the given configuration, whatever experiments and presets it was composed of.

    Parameters
    ----------
    composed : DictConfig
        With its interpolations; sections and keys of ``config.yaml``.

    Returns
    -------
    list of str
        In the order of ``config.yaml``.
    """
    plain: Any = OmegaConf.to_container(OmegaConf.load(ROOT / "config.yaml"), resolve=False)
    given: Any = OmegaConf.to_container(composed, resolve=False)
    return [
        f"{section}.{key}={_option(value)}"
        for section, keys in given.items()
        for key, value in keys.items()
        if value != plain[section][key]
    ]


def _option(value: Any) -> str:
    """A value in the grammar of Hydra's overrides."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_option(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_option, value)) + "]"
    return QuotedString(value, Quote.single).with_quotes() if isinstance(value, str) else json.dumps(value)
