"""The command line: one run, or a sweep with ``-m``, under Hydra."""

from __future__ import annotations

import os
import sys
import traceback
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from bccp.core.errors import BCCPError, NotPromotedError
from bccp.core.exit_codes import failed, to_bccp_error
from bccp.core.home import home
from bccp.core.overrides import check_flags, check_overrides, flags_first, no_value, not_composed, not_there, quote_step_list, split_options
from bccp.core.paths import ROOT
from bccp.core.processes import Interrupted, callers, end_with
from bccp.core.redaction import redact, redact_text, to_env_ref
from bccp.core.run_summary import PAGE, Summary
from bccp.pipeline import config_source, config_text
from bccp.pipeline.runner import new_run_folder, notes, run_composed, text_report
from bccp.pipeline.sweeps import jobs, sweep
from bccp.pipeline.sweeps.optuna_search import search_concluded

_OPTION = "--hydra-options="

# with the import, so that a launcher's other processes have them too, which get the one id of a sweep with its configuration
OmegaConf.register_new_resolver("bccp_home", lambda: str(home()), replace=True)
OmegaConf.register_new_resolver("bccp_id", lambda: uuid.uuid4().hex[:6], replace=True, use_cache=True)

_refused: list[BCCPError] = []
"""What ended a single run; Hydra gives nothing else back."""


def hydra_main(arguments: Sequence[str]) -> int:
    """Run what the arguments ask for.

    Parameters
    ----------
    arguments : sequence of str
        Hydra's flags and overrides, or one ``--hydra-options=…`` that holds them all.

    Returns
    -------
    int
        The exit status: 0, 1 after an error (told in the last line on stderr), 2 for an unknown flag or where an extra is missing, 3 where
        ``main.require_promotion`` is set and nothing was promoted, 130 or 143 after a signal.
    """
    if "MLFLOW_RUN_ID" in os.environ:
        end_with(callers())  # `mlflow run` would leave it alone when it is killed
    try:
        words: list[str] = []
        for argument in arguments:
            words += split_options(argument.removeprefix(_OPTION)) if argument.startswith(_OPTION) else [argument]
        words = flags_first(words)
        if {"-h", "--help"} & set(words):
            print(config_text.help_text())
            return 0
        if not {"-m", "--multirun"} & set(words):
            words = [quote_step_list(word) for word in words]
        check_flags(words, by_mlflow=any(argument.startswith(_OPTION) for argument in arguments))
        home()  # refuses what Hydra would wrap in errors of its own
        words = [to_env_ref(word) for word in _check(words)]
        os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come up to here instead of being printed by Hydra
        sys.argv = [str(ROOT / "main.py"), *words]
        _refused.clear()
        config_source.register_source()
        with sweep.concluded(), search_concluded():
            hydra.main(version_base="1.3", config_path=str(ROOT), config_name="config")(hydra_job)()
        if _refused:
            raise _refused[0]
        return 0
    except BCCPError as error:
        return failed(str(error), error.exit_status)
    except MissingConfigException as error:
        missing = not_there(error)
        return failed(str(missing), missing.exit_status)
    except ConfigCompositionException as error:
        return failed(redact_text(not_composed(error)))
    except KeyboardInterrupt:
        return failed("interrupted", 130)
    except Interrupted as stopped:
        return failed("terminated", 128 + stopped.number)
    except SystemExit as leaving:  # Hydra leaves so after --help and after its own errors
        return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except Exception as error:
        if isinstance(known := to_bccp_error(error), BCCPError):
            return failed(str(known))
        print(redact_text(traceback.format_exc()), file=sys.stderr)
        said = redact_text(f"{type(error).__name__}: {error}").splitlines()[0]
        return failed(" ".join([said, *notes(error), "(this is a fault in BCCP: please report it)"]))


def _check(words: Sequence[str]) -> list[str]:
    """Check the overrides, and put quotes round texts in them; what is refused leaves a summary too."""
    overrides = [word for word in words if (not word.startswith("-") and "=" in word) or word.startswith("~")]
    stray = next((word for word in words if not word.startswith("-") and word not in overrides), None)
    try:
        if stray is not None and not any(
            word in ("--config-name", "-cn", "--cfg", "-c", "--info", "-i", "--package", "-p") for word in words
        ):
            raise BCCPError(no_value(stray))
        checked = dict(zip(overrides, check_overrides(overrides), strict=True))
    except BCCPError as error:
        Summary(error=str(error), config={"overrides": redact(overrides)}).write(new_run_folder())
        raise
    return [checked.get(word, word) for word in words]


def hydra_job(composed: DictConfig) -> Any:
    """What Hydra calls: a single run, or a job of a sweep, in whatever process a launcher runs it."""
    about = HydraConfig.get()
    folder = Path(about.runtime.output_dir)
    if about.mode != RunMode.MULTIRUN:
        try:
            summary = run_composed(composed, folder)
        except Exception as error:
            if (page := folder / PAGE).exists():
                print(f"report: {page}", flush=True)
            if not isinstance(error, BCCPError):
                raise
            _refused.append(error)  # Hydra would print more lines around it
            return None
        print(text_report(summary, folder), flush=True)
        if composed.main.require_promotion and (why := summary.not_promoted()):
            _refused.append(NotPromotedError(f"nothing was promoted, as main.require_promotion asks for: {why}"))
    else:
        with jobs.job(folder):
            try:
                summary = run_composed(composed, folder, sweep=Path(about.sweep.dir).name, job=about.job.num)
            except BCCPError:  # its summary tells it; the sweep goes on with its other jobs
                return None
            except Exception:
                print(redact_text(traceback.format_exc()), file=sys.stderr)
                return None
    return summary.metrics.get("train/val_accuracy")
