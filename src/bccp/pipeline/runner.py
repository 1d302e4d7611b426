"""The orchestrator: runs the steps in order, passes explicit versions along, and leaves a summary."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import json
import operator
import os
import sys
import time
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from bccp.core import automatic, automatic_models, config, config_schema, logs, naming, paths, progress, provenance, step_graph
from bccp.core.errors import BCCPError
from bccp.core.exit_codes import run_status, to_bccp_error
from bccp.core.home import home, keep_within_home, sweep_scratch
from bccp.core.processes import Interrupted, descendants, end_descendants, importing, process_start, terminable
from bccp.core.redaction import redact, redact_text, to_env_ref
from bccp.core.run_summary import HEADLINES, PAGE, SUSPECTS_PAGE, StepRecord, Summary
from bccp.core.runtime.threads import default_threads, limit_threads
from bccp.core.shell_commands import page_of_runs
from bccp.core.step_context import Context
from bccp.core.step_graph import SPECS
from bccp.pipeline import environments
from bccp.pipeline.compose import compose
from bccp.pipeline.plan import Plan, nearest_run
from bccp.pipeline.step_runner import execute, resolve_external_refs
from bccp.tracking import wandb_client, wandb_reused
from bccp.tracking.backends import ledger_uri
from bccp.tracking.store import Ledger
from bccp.tracking.tags import (
    FOLDER_TAG,
    LEFT_OUT_PREFIX,
    PIPELINE_TAG,
    REGISTERED_TAG,
    REUSED_PREFIX,
    VERDICT_REASON_TAG,
    VERDICT_TAG,
    WANDB_LOST_TAG,
    WORK_SECONDS_TAG,
    simulated_tag,
)
from bccp.tracking.versions import qualified


def run(overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Run the pipeline, as from a notebook.

    Parameters
    ----------
    overrides : sequence of str
        Hydra overrides such as ``"noisy_labels.user_accuracy=0.6"``.

    Returns
    -------
    dict
        What ``summary.json`` holds, and ``folder``, where it lies.

    Raises
    ------
    BCCPError
        If something in the input is wrong. The summary is written all the same.

    Examples
    --------
    >>> import bccp
    >>> summary = bccp.run(["noisy_labels.user_accuracy=0.6"])  # doctest: +SKIP
    >>> summary["metrics"]["test/accuracy"]  # doctest: +SKIP
    """
    folder = new_run_folder()
    summary = run_composed(compose(overrides), folder)
    return dataclasses.asdict(summary) | {"folder": str(folder)}


def new_run_folder() -> Path:
    """A name under the home's ``outputs`` that no other run has."""
    return home() / "outputs" / naming.new_name()


def run_composed(composed: DictConfig, folder: Path, *, sweep: str | None = None, job: int = 0, advise: bool = True) -> Summary:
    """Run the pipeline on a composed configuration; the summary goes to ``folder``, also when the pipeline fails.

    Parameters
    ----------
    composed : DictConfig
        ``config.yaml`` with overrides.
    folder : Path
        The run folder.
    sweep : str, optional
        The id of the sweep that this is part of.
    job : int
        Its number in the sweep.
    advise : bool
        Say how to check labels, and leave a page for it in the folder, unless it is a job of a sweep. The list lies there in any case.

    Returns
    -------
    Summary

    Raises
    ------
    BCCPError
        If something in the input is wrong.
    """
    summary, pipeline = Summary(environment=provenance.environment()), None
    try:
        summary.config = redact(OmegaConf.to_container(composed, resolve=False))
        checked = config.load(composed, base=Path.cwd())
        if sweep is None:  # a sweep has looked at its jobs before it began
            automatic.refuse_idle_simulation(checked)
        summary.config = redact(dataclasses.asdict(checked))
        pipeline = PipelineRunner(checked, folder, summary, sweep=sweep, job=job, advise=advise)
        with terminable():
            pipeline.run()
    except Exception as error:
        known = to_bccp_error(error)
        summary.error = (
            str(known) if isinstance(known, BCCPError) else redact_text(f"{type(error).__name__}: {' '.join([str(error), *notes(error)])}")
        )
        reached = pipeline if known is error else None  # else it is the store that has failed, or the disk
        _tell(summary, folder, getattr(reached, "ledger", None), getattr(reached, "context", None))
        if known is not error:
            raise known from error
        raise
    except BaseException as error:
        summary.error = f"stopped by {error if isinstance(error, Interrupted) else type(error).__name__}"
        raise
    finally:
        with suppress(OSError) if summary.error else nullcontext():  # what kept the run from finishing may keep this from being written
            summary.write(folder)
    return summary


def _tell(summary: Summary, folder: Path, ledger: Ledger | None, context: Context | None) -> None:
    """Make the run's page."""
    from bccp.reporting import run_report  # pandas takes a third of a second to import: not before it is needed

    run_report.conclude_run(dataclasses.asdict(summary), folder, ledger, context)


class PipelineRunner(Plan):
    """One run of the pipeline."""

    def __init__(
        self,
        checked: config_schema.Config,
        folder: Path,
        summary: Summary,
        *,
        sweep: str | None = None,
        job: int = 0,
        advise: bool = True,
    ) -> None:
        if sweep:
            if checked.main.require_promotion:
                raise BCCPError("main.require_promotion cannot be kept by a multirun, which promotes nothing: leave it out")
            checked.test.promote = "never"  # jobs at once would take the place of each other's champion
        super().__init__(checked)
        self.folder = folder
        self.sweep = sweep
        self.advise = advise and sweep is None
        self.name = naming.job_name(sweep, job) if sweep else folder.name
        self.summary = summary
        self.records = {record.name: record for record in summary.steps}
        self.unchecked = True  # by preflight

    def run(self) -> None:
        """Run, reuse or skip each step in order."""
        keep_within_home()
        tracking = self.config.tracking
        mode = wandb_client.resolve_mode(tracking.wandb)
        if mode == "online":
            sent = "figures, models and images" if tracking.upload_images else "figures and models, no images"
            print(
                f"W&B: online, {tracking.wandb_entity or 'your default entity'}/{tracking.wandb_project}; sent: {sent}",
                flush=True,
            )
        uri, note = ledger_uri(tracking.mlflow_uri)
        if note:
            print(note, flush=True)
        automatic.refuse_registration(self.config)
        threads = self.config.main.threads or default_threads()
        limit_threads(threads)
        sweep_scratch()
        self.ledger = Ledger(uri)
        self.ledger.close_orphaned_runs()
        try:
            parent = self.ledger.start(
                self.name,
                run_id=self.ledger.attach_run(os.environ.pop("MLFLOW_RUN_ID", None)),
                tags={PIPELINE_TAG: self.name, FOLDER_TAG: str(self.folder)},
            )
            self.context = Context(
                ledger_uri=uri,
                wandb=mode,
                wandb_entity=tracking.wandb_entity,
                wandb_project=tracking.wandb_project,
                upload_images=tracking.upload_images,
                pipeline=self.name,
                threads=threads,
                sweep=self.sweep,
                config=self._settings(),
                parent_run_id=parent,
                init_timeout=tracking.init_timeout,
                finish_timeout=tracking.finish_timeout,
                process=(os.getpid(), process_start(os.getpid())),
                cache=self.config.main.cache,
                folder=str(self.folder),
            )
            waiting = automatic.unresolved(self.config)
            self._log_settings(lambda key: key not in waiting)
            if "train" in self.asked:  # a model to start from that is not there ends the run here, and not after the judging
                resolve_external_refs("train", self.config.train, self.ledger)
            self._tell_simulation()
            for name in self.needed(self.asked):
                self._step(name)
                if name == "fetch_data":
                    self._resolve_by_data()
                elif name == "bayes_cutoff":
                    self._leave_checking_list()
            self.ledger.log_metrics(parent, self.summary.metrics)
            self.summary.promotion = self._promotion()
            self.summary.status = "finished"
            _tell(self.summary, self.folder, self.ledger, self.context)
            if self.advise and "cleansed_labels" in self.versions:
                from bccp.reporting import checking_files

                checking_files.leave_checking_page(dataclasses.asdict(self.summary), self.folder, self.ledger)
            tell = mode != "disabled" and any(record.status == "reused" for record in self.summary.steps)
            if tell:
                wandb_reused.ask(self.ledger, parent, self.sweep or self.name)
            self.ledger.end(parent, "FINISHED")
            if tell and mode == "online" and WANDB_LOST_TAG not in self.ledger.client.get_run(parent).data.tags:
                wandb_reused.tell(self.ledger, parent)
        except BaseException as error:
            self.summary.status = "failed"
            self.ledger.end_all(self.name, run_status(error))
            raise

    def _promotion(self) -> dict[str, str] | None:
        """What became of the registered model; None where none was."""
        run_id = self.records["test"].run_id
        if run_id is None or not self.config.test.registered_model_name:
            return None
        tags = self.ledger.client.get_run(run_id).data.tags
        found = {"verdict": VERDICT_TAG, "reason": VERDICT_REASON_TAG, "model": REGISTERED_TAG}
        return {name: tags.get(tag, "") for name, tag in found.items()}

    def _settings(self) -> dict[str, Any]:
        """The steps' sections of the configuration, for records; what the data has yet to decide is left out."""
        sections = redact(dataclasses.asdict(self.config))
        del sections["tracking"]
        for key in automatic.unresolved(self.config):
            *path, name = key.split(".")
            del functools.reduce(operator.getitem, path, sections)[name]
        return typing.cast("dict[str, Any]", sections)

    def _log_settings(self, wanted: Callable[[str], bool]) -> None:
        """Log the values of the keys that are wanted as parameters of the run; MLflow takes each key once."""
        flat = config.flatten(redact(dataclasses.asdict(self.config)))
        self.ledger.log_params(str(self.context.parent_run_id), {key: config.encode(value) for key, value in flat if wanted(key)})

    def _tell_simulation(self) -> None:
        """Say what is simulated, and tag the run with it."""
        settings = self._settings()
        if said := automatic.simulation_sentence(settings):
            print(said, flush=True)
        self.ledger.tag(str(self.context.parent_run_id), simulated_tag(settings))

    def _resolve_by_data(self) -> None:
        """Resolve what the days of the fetched data and the sizes of its images decide, and enter it into the records."""
        raw, said = self.versions["raw_data"], list[str]()
        waiting, before = automatic.unresolved(self.config), automatic.simulation_sentence(self._settings())
        if automatic.depends_on_days(self.config):
            from bccp.pipeline import data_days  # a pipeline whose days are known does not need what it imports

            data_days.resolve(self.config, self.ledger.fetch(qualified("raw_data", raw)))
            said += [automatic.target_day_sentence(self.config)] if "main.target_day" in waiting else []
        needed = self.needed(self.asked)
        sized = automatic_models.waiting(self.config) - (set() if "bayes_cutoff" in needed else {"bayes_cutoff.judge"})
        if sized and "preprocessing" in needed:
            from bccp.pipeline import data_images

            said.append(data_images.resolve(self.config, raw, self.ledger, self.context))
            self.unchecked = True  # the models that were chosen
        if "bayes_cutoff.judge" in waiting and "bayes_cutoff" in needed:
            said.append(automatic.judge_sentence(self.config))
        resolved = waiting - automatic.unresolved(self.config)
        if not resolved:
            return
        self.summary.config = redact(dataclasses.asdict(self.config))
        self.context = dataclasses.replace(self.context, config=self._settings())
        self._log_settings(resolved.__contains__)
        if automatic.simulation_sentence(self._settings()) != before:
            self._tell_simulation()
        for line in filter(None, said):
            print(line, flush=True)

    def _leave_checking_list(self) -> None:
        """Leave the list of judged labels in the run's folder, be it new or reused, and say what to do with it."""
        from bccp.reporting import checking_files

        version, method = self.versions["cleansed_labels"], self.config.bayes_cutoff.method
        said = checking_files.leave_checking_list(version, method, self.folder, self.ledger)
        if said and self.advise:
            print(said, flush=True)

    def _step(self, name: str) -> None:
        record = self.records[name]
        started = time.perf_counter()
        try:
            key, parts = self.key(name, self.ledger)
            lock = self.ledger.lock(f"step-{key[:16]}", lambda: print(f"  {name}: waits for another process that runs it", flush=True))
            with lock if self.config.main.cache else nullcontext():  # nobody's result is waited for where none is taken
                if name not in self.asked:
                    self._take_left_out(record, key, parts)
                elif not (self.config.main.cache and self._reuse(record, key)):
                    if self.unchecked:
                        from bccp.pipeline import preflight  # a pipeline that reuses everything does not need what it imports

                        preflight.check(self.config, self.asked, isolated=self.isolated)
                        self.unchecked = False
                    self._execute(record, self.config.section(name), self.inputs(name), key, parts)
        finally:
            record.seconds = round(time.perf_counter() - started, 3)
        self.versions |= record.outputs

    def _take_left_out(self, record: StepRecord, key: str, parts: Mapping[str, Any]) -> None:
        found = self.ledger.find(record.name, key)
        if found is None:
            reader = next(step for step in self.asked if step_graph.STEPS.index(step) > step_graph.STEPS.index(record.name))
            nearest = nearest_run(self.ledger, record.name, parts)
            why = "the nearest has " + _some(nearest[1]) if nearest else "it has never finished here"
            record.status, record.reason = "failed", "left out, and no finished run of it fits"
            raise BCCPError(
                f"{reader} needs the outputs of {record.name}, which main.execute_steps leaves out, and no finished run of it has this "
                f"configuration ({why}): add {record.name} to main.execute_steps"
            )
        record.run_id, record.outputs, record.reason = found.run_id, found.outputs, "left out; a finished run's outputs are used"
        self.ledger.tag(str(self.context.parent_run_id), {f"{LEFT_OUT_PREFIX}{record.name}": found.run_id})

    def _reuse(self, record: StepRecord, key: str) -> bool:
        found = self.ledger.find(record.name, key)
        if found is None:
            return False
        record.status, record.reason = "reused", f"run {found.run_id[:8]} has the same key"
        record.run_id, record.outputs = found.run_id, found.outputs
        self.summary.metrics |= {k: v for k, v in found.metrics.items() if k.startswith(f"{record.name}/") and "/epoch_" not in k}
        self.ledger.tag(str(self.context.parent_run_id), {f"{REUSED_PREFIX}{record.name}": found.run_id})
        print(f"{record.name}: reused ({record.reason})", flush=True)
        return True

    def _execute(self, record: StepRecord, section: Any, inputs: dict[str, str], key: str, parts: dict[str, Any]) -> None:
        print(f"{record.name}: runs", flush=True)
        record.status, record.reason = "failed", "did not finish"
        try:
            if self.isolated:  # the step's own process draws its bars and writes its log
                self._execute_isolated(record, section, inputs, key)
            else:
                needed = self.needed(self.asked)
                with (
                    progress.display(record.name, done=needed.index(record.name), total=len(needed)),
                    logs.logged(self.context.log(record.name)),
                ):
                    self._execute_here(record, section, inputs, key, parts)
        except Exception as error:
            named = self._name_log(error, record.name)
            if named is error:
                raise
            raise named from error
        record.status, record.reason = "ran", "no finished run had its key" if self.config.main.cache else "main.cache=false"

    def _name_log(self, error: Exception, name: str) -> Exception:
        """An error that names the log of the step that it ended."""
        log = self.context.log(name)
        if log is None or not log.exists():
            return error
        if isinstance(error, BCCPError):
            return BCCPError(f"{error} (its log: {log})")
        error.add_note(f"(its log: {log})")
        return error

    def _execute_here(self, record: StepRecord, section: Any, inputs: dict[str, str], key: str, parts: dict[str, Any]) -> None:
        step = execute(
            load_step(record.name).run,
            name=record.name,
            section=section,
            inputs=inputs,
            context=self.context,
            ledger=self.ledger,
            key=key,
            key_parts=parts,
        )
        record.run_id, record.outputs, record.work_seconds = step.run_id, step.outputs, round(step.work_seconds, 3)
        self.summary.metrics |= step.metrics

    def _execute_isolated(self, record: StepRecord, section: Any, inputs: Mapping[str, str], key: str) -> None:
        """Start the step as an MLflow project in an environment of its own, and read its run's record."""
        import mlflow
        from mlflow.exceptions import ExecutionException

        if self.manager != "local":
            environments.prepare(paths.ROOT / record.name, self.manager)
        parameters = {f.name: to_env_ref(config.encode(getattr(section, f.name))) for f in dataclasses.fields(section)}
        parameters |= {name: qualified(name, version) for name, version in inputs.items()}
        spec = SPECS[record.name]
        parameters |= {name: "null" for name in spec.all_inputs if name not in inputs}
        os.environ["MLFLOW_TRACKING_URI"] = self.context.ledger_uri
        mlflow.set_tracking_uri(self.context.ledger_uri)
        name = naming.part_name(record.name, self.name)
        run_id = self.ledger.start(name, parent=self.context.parent_run_id, tags={PIPELINE_TAG: self.name})
        others = descendants(os.getpid())
        python_path = os.environ.pop("PYTHONPATH", None)  # it would bring in what the step does not declare
        try:
            with environments.package_folder() as package:
                os.environ["BCCP_CONTEXT"] = json.dumps(dataclasses.asdict(dataclasses.replace(self.context, package=package)))
                mlflow.projects.run(  # type: ignore[no-untyped-call]
                    str(paths.ROOT / record.name),
                    parameters=parameters,
                    experiment_id=self.ledger.client.get_run(run_id).info.experiment_id,
                    env_manager=self.manager,
                    run_id=run_id,
                )
        except ExecutionException as error:
            raise BCCPError(f"the step {record.name} failed in its own environment: see its message above") from error
        except BaseException:
            end_descendants(others)
            raise
        finally:
            os.environ.pop("BCCP_CONTEXT", None)
            if python_path is not None:
                os.environ["PYTHONPATH"] = python_path
        found = self.ledger.find(record.name, key)
        if found is None or found.run_id != run_id:
            raise BCCPError(f"the step {record.name} ended, but its run {run_id} is not recorded in {self.context.ledger_uri}")
        tags = self.ledger.client.get_run(found.run_id).data.tags
        record.run_id, record.outputs = found.run_id, found.outputs
        record.work_seconds = float(tags[WORK_SECONDS_TAG])
        self.summary.metrics |= {k: v for k, v in found.metrics.items() if "/epoch_" not in k}


def notes(error: BaseException) -> list[str]:
    """What was added to an error on its way: where its step's log is."""
    return list(getattr(error, "__notes__", ()))


@importing()
def load_step(name: str) -> types.ModuleType:
    """Import a step's ``run.py``."""
    path = paths.ROOT / name / "run.py"
    spec = importlib.util.spec_from_file_location(f"bccp_steps.{name}", path)
    if spec is None or spec.loader is None or not path.exists():
        raise BCCPError(f"{path} is missing: install bccp anew")
    module = importlib.util.module_from_spec(spec)
    search_path = list(sys.path)
    spec.loader.exec_module(module)
    sys.path[:] = search_path  # a step puts src/ in front, which this process has already
    return module


def text_report(summary: Summary, folder: Path) -> str:
    """The text that a run ends with: a table of the steps, the main figures, and where to look next."""
    rows = [("step", "status", "seconds", "made")]
    for record in summary.steps:
        made = ", ".join(f"{name}:{version[:12]}" for name, version in record.outputs.items())
        rows.append((record.name, record.status, f"{record.seconds:.1f}" if record.status != "skipped" else "", made))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c:>{widths[2]}}  {d}".rstrip() for a, b, c, d in rows]
    figures = [f"{name:<38} {summary.metrics[name]:.4f}" for name in HEADLINES if name in summary.metrics]
    uri, _ = ledger_uri(summary.config["tracking"]["mlflow_uri"])
    look = ["look next:", f"  summary     {folder / 'summary.json'}"]
    look.append(f"  every run   {page_of_runs(uri)}")
    if (page := folder / PAGE).exists():
        look.append(f"  report      {page}")
    if (page := folder / SUSPECTS_PAGE).exists():
        look.append(f"  suspects    {page}")
    return "\n".join(["", *lines, "", *figures, "" if figures else "no figures: no step that measures was run", *look])


def _some(differences: list[str]) -> str:
    shown = "; ".join(differences[:3]) or "the same key, but its outputs are damaged"
    return shown + (f" and {len(differences) - 3} more" if len(differences) > 3 else "")
