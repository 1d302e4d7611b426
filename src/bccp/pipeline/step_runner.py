"""Runs a step, recorded as a run of its own: in the orchestrator's process, or alone from the command line."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bccp.core import automatic_models, config, config_schema, logs, naming, progress, step_context, step_graph, user_code
from bccp.core.errors import BCCPError, nearest
from bccp.core.exit_codes import run_status, to_bccp_error
from bccp.core.home import scratch
from bccp.core.processes import Interrupted, callers, end_with, terminable
from bccp.core.redaction import from_env_ref, redact
from bccp.core.runtime.threads import default_threads, limit_threads
from bccp.core.step_context import Context
from bccp.core.step_graph import MAKER, PIXEL_ARTIFACTS, SPECS
from bccp.pipeline import cache_keys
from bccp.pipeline.step import RunningStep, checkpoint_for
from bccp.tracking import wandb_artifacts, wandb_client, wandb_run
from bccp.tracking.backends import ledger_uri
from bccp.tracking.store import Ledger
from bccp.tracking.tags import (
    INPUT_PREFIX,
    KEY_PARTS_TAG,
    KEY_TAG,
    MLFLOW_RUN_KEY,
    PIPELINE_TAG,
    STEP_TAG,
    WANDB_LOST_TAG,
    WORK_SECONDS_TAG,
    simulated_tag,
)
from bccp.tracking.versions import qualified, split_version

Run = Callable[[step_context.Step], None]
"""A step's own function, in its ``run.py``."""


def execute(
    run: Run,
    *,
    name: str,
    section: Any,
    inputs: Mapping[str, str],
    context: Context,
    ledger: Ledger,
    key: str,
    key_parts: Mapping[str, Any],
    run_id: str | None = None,
    origins: Mapping[str, str] | None = None,
) -> RunningStep:
    """Run a step in this process, recorded as a run of its own.

    Parameters
    ----------
    run : callable
        The step's function.
    name : str
        One of ``config.STEPS``.
    section : dataclass
        Its section.
    inputs : mapping of str to str
        Version of each input, by name.
    context : Context
    ledger : Ledger
    key, key_parts
        From :func:`bccp.pipeline.cache_keys.step_key`.
    run_id : str, optional
        The run that MLflow made for the step, where it started it.
    origins : mapping of str to str, optional
        W&B's ``entity/project`` of the inputs that were named so.

    Returns
    -------
    RunningStep
        With its outputs, metrics and seconds.

    Raises
    ------
    BCCPError
        What the step refuses. Whatever ends the step, its run says so, and nothing of it is visible.
    """
    tags = {STEP_TAG: name, PIPELINE_TAG: context.pipeline} | {f"{INPUT_PREFIX}{k}": v for k, v in inputs.items()}
    tags |= simulated_tag(context.config)
    run_id = ledger.start(naming.part_name(name, context.pipeline), parent=context.parent_run_id, run_id=run_id, tags=tags)
    mirror: wandb_run.Mirror = wandb_run.NoMirror()
    try:
        ledger.log_params(run_id, {f.name: config.encode(redact(getattr(section, f.name))) for f in dataclasses.fields(section)})
        mirror = _mirror(name, section, context, ledger, {MLFLOW_RUN_KEY: run_id, KEY_TAG: key, PIPELINE_TAG: context.pipeline})
        if context.wandb != "disabled":
            for artifact, version in inputs.items():
                known, digest = split_version(qualified(artifact, version))
                folder = ledger.fetch(f"{known}:{digest}")
                mirror.use(known, digest, folder, pixels=known in PIXEL_ARTIFACTS, origin=(origins or {}).get(artifact))
        limit_threads(context.threads)
        checkpoint = checkpoint_for(name, key, context)
        step = RunningStep(name, section, dict(inputs), context, ledger, run_id, mirror, checkpoint=checkpoint)
        with step._watch.going(True):
            run(step)
        if name == "fetch_data":
            from bccp.data.sources import refuse_change  # only this step's environment has what it imports

            refuse_change(section, str(key_parts["parameters"].get("path", "")))
        missing = [output for output in SPECS[name].outputs if output not in step.outputs]
        if missing:
            raise RuntimeError(f"the step {name} ended without its output {missing[0]}")
        ledger.tag(run_id, {KEY_TAG: key, KEY_PARTS_TAG: json.dumps(key_parts), WORK_SECONDS_TAG: f"{step.work_seconds:.3f}"})
        mirror.finish(0)
        if mirror.lost and context.parent_run_id:
            ledger.tag(context.parent_run_id, {WANDB_LOST_TAG: "true"})
        ledger.end(run_id, "FINISHED")
    except BaseException as error:
        ledger.end(run_id, run_status(error))
        mirror.finish(1)
        raise
    checkpoint.unlink(missing_ok=True)
    return step


def _mirror(name: str, section: Any, context: Context, ledger: Ledger, about: Mapping[str, str]) -> wandb_run.Mirror:
    """The step's run in W&B; offline where the server has not answered an earlier step of the pipeline, so that only one has to wait."""
    mode = context.wandb
    if mode == "disabled":
        return wandb_run.NoMirror()
    if mode == "online" and context.parent_run_id and WANDB_LOST_TAG in ledger.client.get_run(context.parent_run_id).data.tags:
        mode = "offline"
    return wandb_run.WandbMirror(
        mode=mode,
        to=context,
        group=context.sweep or context.pipeline,
        name=naming.part_name(name, context.pipeline),
        step=name,
        config={**redact(dataclasses.asdict(section)), **about, "pipeline": context.config},
        home=ledger.home,
    )


def command_line(run: Run) -> None:
    """Run a step alone, with its parameters from the command line, as its ``MLproject`` calls it.

    Ends the process: with status 0, or with ``error: <one sentence>`` on stderr and status 1, or 130 or 143 after a signal. The process
    also ends when the one that wants the step has ended.
    """
    try:
        name = Path(run.__code__.co_filename).parent.name
        with terminable():
            _run_alone(run, name)
    except (KeyboardInterrupt, Interrupted) as stopped:
        print(f"error: the step {name} was stopped", file=sys.stderr, flush=True)
        sys.exit(128 + (stopped.number if isinstance(stopped, Interrupted) else signal.SIGINT))
    except Exception as error:
        if not isinstance(to_bccp_error(error), BCCPError):
            raise
        print(f"error: {to_bccp_error(error)}", file=sys.stderr, flush=True)
        sys.exit(1)


def _run_alone(run: Run, name: str) -> None:
    spec, kind = SPECS[name], config_schema.section_type(name)
    artifacts = spec.all_inputs
    fields = [f.name for f in dataclasses.fields(kind)]
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__, allow_abbrev=False)
    for option in (*artifacts, *fields):
        parser.add_argument(f"--{option}", default=None)
    given, unknown = parser.parse_known_args()
    if unknown:
        word = unknown[0].lstrip("-").partition("=")[0]
        raise BCCPError(f"the step {name} has no parameter {word!r}" + nearest(word, (*artifacts, *fields)))
    values = {f: from_env_ref(getattr(given, f)) for f in fields if getattr(given, f) is not None}
    section = config.section(kind, values, config_schema.section_name(name), Path.cwd())
    context = context_from_environment()
    if context.process:
        end_with([context.process])
    elif "MLFLOW_RUN_ID" in os.environ:
        end_with(callers())
    ledger = Ledger(context.ledger_uri)
    named = {artifact: getattr(given, artifact) for artifact in artifacts}
    inputs, origins = find_inputs(name, {k: v for k, v in named.items() if v not in (None, "", "null", "None")}, context, ledger)
    if "auto" in (getattr(section, option, None) for option in ("target_day", "source", "label_source")):
        from bccp.pipeline import data_days  # not every step can import it

        data_days.resolve_alone(name, section, inputs, ledger)
    if automatic_models.waiting_in(section):
        from bccp.pipeline import data_images

        data_images.resolve_alone(section, inputs, ledger)
    if isinstance(section, config_schema.Recipe):
        automatic_models.check_head(config_schema.section_name(name), section)
    if isinstance(section, config_schema.BayesCutoff):
        automatic_models.resolve_judge(section)
    key, parts = cache_keys.step_key(
        name, section, inputs, isolated=cache_keys.started_by() != "local", resolved=resolve_external_refs(name, section, ledger)
    )
    run_id = ledger.attach_run(os.environ.pop("MLFLOW_RUN_ID", None))
    given_to = {"name": name, "section": section, "inputs": inputs, "context": context, "ledger": ledger, "key": key, "key_parts": parts}
    with progress.display(name, done=step_graph.STEPS.index(name), total=len(step_graph.STEPS)), logs.logged(context.log(name)):
        execute(run, **given_to, run_id=run_id, origins=origins)


def find_inputs(name: str, named: Mapping[str, str], context: Context, ledger: Ledger) -> tuple[dict[str, str], dict[str, str]]:
    """Find the input artifacts that a step alone was given.

    Parameters
    ----------
    name : str
        The step.
    named : mapping of str to str
        A version of each artifact, as :func:`locate` takes it. Without ``clean_data`` it is the one that ``segregated_data`` indexes.
    context : Context
    ledger : Ledger

    Returns
    -------
    inputs : dict of str to str
        Version of each input (64 hex digits), or ``other:digest`` where another artifact stands in for it.
    origins : dict of str to str
        W&B's ``entity/project`` of those that were named with it.

    Raises
    ------
    BCCPError
        If a required one is missing, one cannot be found, or ``segregated_data`` does not index ``clean_data``.
    """
    spec, versions = SPECS[name], dict(named)
    for artifact in sorted(spec.inputs, key=lambda artifact: artifact == "clean_data"):  # which the others may tell
        if artifact not in versions and not (artifact == "clean_data" and "segregated_data" in versions):
            raise BCCPError(f"the step {name} needs {artifact}={artifact}:<digest>: the step {MAKER[artifact]} makes it")
    if "clean_data" in spec.inputs and "segregated_data" in versions:
        about = ledger.fetch(f"segregated_data:{locate(versions['segregated_data'], context, ledger)}") / "clean_data.json"
        indexed = json.loads(about.read_text(encoding="utf-8"))["clean_data"]
        project, slash, _ = versions["segregated_data"].rpartition("/")
        clean = versions.setdefault("clean_data", f"{project}{slash}clean_data:{indexed}")
        if not indexed.startswith(split_version(clean)[1]):
            raise BCCPError(
                f"segregated_data={versions['segregated_data']} indexes clean_data:{indexed[:12]}, not {clean}: leave clean_data out"
            )
    inputs, origins = {}, {}
    for artifact in spec.all_inputs:
        if artifact in versions:
            given_name, digest = split_version(versions[artifact])[0], locate(versions[artifact], context, ledger)
            inputs[artifact] = digest if given_name == artifact else f"{given_name}:{digest}"
            if "/" in versions[artifact]:
                origins[artifact] = versions[artifact].rpartition("/")[0]
    return inputs, origins


def locate(version: str, context: Context, ledger: Ledger) -> str:
    """Find an artifact, which the ledger has afterwards: what it lacks is downloaded from W&B.

    Parameters
    ----------
    version : str
        ``name:digest``, or ``entity/project/name:d-<12 hex>`` as in W&B.
    context : Context
        Where W&B is asked for what is named without entity and project.
    ledger : Ledger

    Returns
    -------
    str
        Its version, 64 hex digits.

    Raises
    ------
    BCCPError
        If neither has it whole.
    """
    name, digest = split_version(version)
    place = version.rpartition("/")[0] or "/".join(part for part in (context.wandb_entity, context.wandb_project) if part)
    try:
        digest = ledger.full_digest(version)
        ledger.fetch(f"{name}:{digest}")
    except BCCPError as error:
        if context.wandb != "online":
            raise BCCPError(f"{error}; W&B is asked for it where there is a key (WANDB_API_KEY) or a login") from error
        with scratch(name) as parent:
            wandb_artifacts.download(f"{place}/{name}:{wandb_artifacts.alias(digest)}", parent / name)
            found = ledger.import_artifact(name, parent / name)
        if not found.startswith(digest):
            raise BCCPError(f"the files of {place}/{name} on W&B are not those of version {digest[:12]}, but of {found[:12]}") from error
        digest = found
    return digest


def resolve_external_refs(name: str, section: Any, ledger: Ledger) -> dict[str, str]:
    """The parameters of a step that name something elsewhere, with what they mean now, for its key."""
    meant = {}
    if code := user_code.source_digest(target for _, target in config_schema.own_names(name, section)):
        meant["own_code"] = code
    if name == "fetch_data":
        from bccp.data.sources import source_fingerprint  # only this step's environment has what it imports

        return meant | {"path": source_fingerprint(section)}
    if name == "train" and section.init.startswith("models:/"):
        from bccp.tracking.registry import meaning

        meant["init"] = meaning(ledger, section.init)
    if name == "test" and section.registered_model_name:
        from bccp.tracking.registry import champion_now

        meant["champion"] = champion_now(ledger, section.registered_model_name)
    if name == "train" and (source := user_code.source_digest(user_code.targets(section.augmentation))):
        meant["augmentation_code"] = source
    return meant


def context_from_environment() -> Context:
    """The context that the orchestrator left in ``BCCP_CONTEXT``, or the defaults for a step that is started by hand."""
    text = os.environ.get("BCCP_CONTEXT")
    if text:
        given = json.loads(text)
        return Context(**given | {"process": tuple(given["process"])})
    uri, note = ledger_uri(None)
    if note:
        print(note, flush=True)
    mode = wandb_client.resolve_mode("auto")
    return Context(uri, mode, None, "bccp", True, naming.part_name("alone", naming.new_name()), default_threads())
