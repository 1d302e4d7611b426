"""The report of a sweep (``bccp sweep-report``), made at a sweep's end too.

It leaves ``sweep.html`` (one page that needs no network), ``sweep.csv`` (a line a job) and the folder ``report`` (the pictures) in the
sweep's folder. Page, table and pictures go to the ledger, as a run named after the sweep, and to W&B, into the sweep's group; making the
report again replaces them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import yaml
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bccp.core import automatic, config, config_schema, naming
from bccp.core.errors import BCCPError
from bccp.core.exit_codes import run_status, to_bccp_error
from bccp.core.home import home, keep_within_home, scratch
from bccp.core.paths import expanded
from bccp.core.redaction import first_line, from_env_ref
from bccp.core.run_summary import HEADLINES
from bccp.data import tables
from bccp.reporting.html import document, duration, folded, many, percent, shortened, simulation_banner, table, tiles, trouble
from bccp.reporting.sweep_data import VALIDATION, Best, Job, SweepData, aggregate, best, describe_sweep, gather, job_record, never_started
from bccp.tracking import wandb_client, wandb_run
from bccp.tracking.backends import ledger_uri
from bccp.tracking.store import Ledger
from bccp.tracking.tags import KIND_TAG, SWEEP_TAG
from bccp.tracking.wandb_sync import recorded

if TYPE_CHECKING:
    from bccp.reporting.sweep_plots import Picture

_NAME = "sweep_report"
"""Of the artifact in the ledger, and the job type in W&B."""

_PAGE, TABLE, PICTURES = "sweep.html", "sweep.csv", "report"
"""What is made in the sweep's folder."""

MOST_SETTINGS, MOST_JOBS, _MOST_NAMED = 200, 1000, 30
"""Lines of the page's tables, and jobs that are named for one error; the CSV file has them all."""

MOST_DRAWN = 3_500_000
"""Letters of the page's drawings, so that it stays below 5 MB."""


def write_report(folder: Path) -> Path:
    """Make the report of a sweep, now, whatever has become of its jobs; where it cannot be recorded, one line says so.

    Parameters
    ----------
    folder : Path
        The sweep's: with Hydra's ``multirun.yaml`` and a folder for each job, named by its number.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    BCCPError
        If there is no job in it, or it cannot be written to.
    """
    keep_within_home()
    from bccp.reporting.sweep_plots import draw_sweep  # matplotlib writes where it was told to before it is imported

    folder = folder.resolve()
    sweep = read_sweep(folder)
    pictures = draw_sweep(sweep, sweep.figures[0]) if sweep.figures else []
    fresh = folder / f".{PICTURES}-{uuid.uuid4().hex}"
    try:
        fresh.mkdir()
        for picture in pictures:
            picture.save(fresh)
        tables.write(sweep.table, fresh / TABLE)
        (fresh / _PAGE).write_text(sweep_page(sweep, pictures), encoding="utf-8")
        for name in (TABLE, _PAGE):
            (fresh / name).replace(folder / name)
        shutil.rmtree(folder / PICTURES, ignore_errors=True)
        fresh.replace(folder / PICTURES)
    except OSError as error:
        raise BCCPError(f"the report cannot be written in {folder} ({error.strerror}): make room, or copy the sweep elsewhere") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    try:
        _record(folder, sweep, [folder / PICTURES / f"{picture.name}.png" for picture in pictures])
    except Exception as error:  # of a store or server: the report is there all the same
        print(f"warning: the sweep's report is not recorded ({first_line(to_bccp_error(error))})", flush=True)
    return folder / _PAGE


def conclude_sweep(folder: Path) -> None:
    """Make the report at a sweep's end, and say where it is; what keeps it from being made is one line, and does not fail the sweep."""
    try:
        print(f"sweep report: {write_report(folder)}", flush=True)
    except Exception as error:
        print(f"warning: the sweep has no report ({first_line(to_bccp_error(error))}): bccp sweep-report {folder} tries again", flush=True)


def read_sweep(folder: Path) -> SweepData:
    """Read what a sweep has left, whatever that is.

    Raises
    ------
    BCCPError
        If it has left no job.
    """
    places = [place for place in folder.iterdir() if place.name.isdigit() and place.is_dir()] if folder.is_dir() else []
    signs = [folder / "multirun.yaml", *(place / left for place in places for left in ("summary.json", ".hydra"))]  # a search has no first
    if not places or not any(sign.exists() for sign in signs):
        raise BCCPError(f"{folder} holds no job of a sweep: give a folder with multirun.yaml and a folder for each job, named 0, 1, …")
    planned = dict(enumerate(_planned(folder)))
    jobs = []
    for place in places:
        number = int(place.name)
        jobs.append(job_record(number, _summary(place), _overrides(place) or planned.get(number, [])))
    return gather(folder.name, [*jobs, *never_started(jobs, planned.values())])


def _summary(place: Path) -> Any:
    try:
        return json.loads((place / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _overrides(place: Path) -> list[str]:
    words = _yaml(place / ".hydra" / "overrides.yaml")
    return [str(word) for word in words] if isinstance(words, list) else []


def _yaml(path: Path) -> Any:
    """What a file holds, or None where it is missing or not whole."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None


def _planned(folder: Path) -> list[list[str]]:
    """The overrides of every job, where Hydra's own sweeper has planned them; another chooses as it goes."""
    try:
        about: Any = OmegaConf.to_container(OmegaConf.load(folder / "multirun.yaml"), resolve=False)
        sweeper = about["hydra"]["sweeper"]
        if not sweeper["_target_"].endswith(".BasicSweeper"):
            return []
        words = [f"{key}={value}" for key, value in (sweeper["params"] or {}).items()] + about["hydra"]["overrides"]["task"]
        return BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(words), None)[0]
    except (OSError, ValueError, yaml.YAMLError, OmegaConfBaseException, HydraException, KeyError, TypeError, AttributeError):
        return []  # there is none, or it is no more whole


def _record(folder: Path, sweep: SweepData, pictures: Sequence[Path]) -> None:
    """Put the report into the ledger and W&B, in the place of an earlier one."""
    about = _tracking(folder)
    name = re.sub(r"[^\w.-]", "-", folder.name)
    statuses = [job.status for job in sweep.jobs]
    metrics = {f"{_NAME}/jobs": float(len(statuses))}
    metrics |= {f"{_NAME}/{status}": float(statuses.count(status)) for status in ("finished", "failed")}
    for figure in sweep.figures:
        metrics[f"{_NAME}/best_{figure.replace('/', '_')}"] = float(aggregate(sweep.table, sweep.keys, sweep.seeds, figure)["mean"].max())
    ledger = Ledger(ledger_uri(about.mlflow_uri)[0])
    with ledger.lock(f"report-{name}", lambda: None):
        _record_in_ledger(ledger, name, folder, pictures, metrics)
        _record_in_wandb(about, name, folder, pictures, metrics)


def _record_in_ledger(ledger: Ledger, name: str, folder: Path, pictures: Sequence[Path], metrics: Mapping[str, float]) -> None:
    wanted = f"tags.`{SWEEP_TAG}` = '{name}' and tags.`{KIND_TAG}` = 'report'"
    earlier = ledger.client.search_runs([ledger.experiment_id], wanted, max_results=1)
    run_id = ledger.start(name, run_id=earlier[0].info.run_id if earlier else None, tags={SWEEP_TAG: name, KIND_TAG: "report"})
    try:
        with scratch(_NAME) as parent:
            place = parent / _NAME
            place.mkdir()
            for path in (folder / _PAGE, folder / TABLE, *pictures):
                shutil.copy(path, place / path.name)
            ledger.publish(run_id, _NAME, place)
        ledger.log_metrics(run_id, metrics)
        ledger.end(run_id, "FINISHED")
    except BaseException as error:
        ledger.end(run_id, run_status(error))
        raise


def _record_in_wandb(
    about: config_schema.Tracking, name: str, folder: Path, pictures: Sequence[Path], metrics: Mapping[str, float]
) -> None:
    mode = wandb_client.resolve_mode(about.wandb)
    if mode == "disabled":
        return
    for earlier in recorded(home() / "wandb"):  # of which W&B has nothing yet, or not all
        if (earlier.note["step"], earlier.note["group"]) == (_NAME, name) and not earlier.going_on:
            shutil.rmtree(earlier.folder)
    mirror = wandb_run.WandbMirror(
        mode=mode,
        to=about,
        group=name,
        name=naming.part_name(_NAME, name),
        step=_NAME,
        config={"sweep": name},
        home=home(),
        run_id=re.sub(r"\W", "_", f"{_NAME}_{name}"),
    )
    exit_code = 1
    try:
        mirror.log(metrics)
        for path in pictures:
            mirror.log_picture(path, pixels=False)
        mirror.log_page(folder / _PAGE)
        exit_code = 0
    finally:
        mirror.finish(exit_code)


def _tracking(folder: Path) -> config_schema.Tracking:
    """Where the sweep's jobs were recorded."""
    values = config.defaults()["tracking"]
    for path in sorted(folder.glob("*/.hydra/config.yaml")):
        composed = _yaml(path)
        if isinstance(composed, Mapping) and isinstance(composed.get("tracking"), Mapping):
            values |= composed["tracking"]
            break
    values["mlflow_uri"] = from_env_ref(str(values["mlflow_uri"])) if values["mlflow_uri"] else None
    if "${oc.env:BCCP_SECRET_" in str(values["mlflow_uri"]):
        if not re.match(r"(https?|postgresql(\+\w+)?)://", os.environ.get("MLFLOW_TRACKING_URI", "")):
            raise BCCPError("the sweep's ledger has a password, which is written nowhere: set MLFLOW_TRACKING_URI to its address")
        values["mlflow_uri"] = None
    plain: Any = OmegaConf.to_container(OmegaConf.create(values), resolve=True)
    made: config_schema.Tracking = config.section(config_schema.Tracking, plain, "tracking", Path.cwd())
    return made


def sweep_page(sweep: SweepData, pictures: Sequence[Picture]) -> str:
    """The page, whole: no other file and no address is needed to look at it.

    Parameters
    ----------
    sweep : Sweep
    pictures : sequence of Picture

    Returns
    -------
    str
        HTML.
    """
    parts = [
        f"<h1>Sweep <span>{escape(sweep.name)}</span></h1>",
        _simulation(sweep),
        _overview(sweep),
        _trouble(sweep),
        _best(sweep),
        *_figures(pictures),
        _settings(sweep),
        _jobs(sweep),
        _shared(sweep),
        "<footer>Means over seeds; ± is half the width of a 95% interval (Student's t), which one seed alone does not give. "
        f"All of it, job by job: <a href='{TABLE}'>{TABLE}</a>.</footer>",
    ]
    return document(f"Sweep {sweep.name}", parts)


def _simulation(sweep: SweepData) -> str:
    parts = [automatic.simulated_parts(job.config) for job in sweep.jobs]
    labels, images = (sum(name in one for one in parts) for name in ("labels", "images"))
    if not labels and not images:
        return ""
    said = f"simulated: wrong labels are drawn on purpose in {labels} of {len(parts)} jobs"
    return simulation_banner(said + (f", and Tuesday's images are corrupted in {images}" if images else ""))


def _overview(sweep: SweepData) -> str:
    statuses = [job.status for job in sweep.jobs]
    n_steps = sum(job.n_ran + job.n_reused for job in sweep.jobs)
    n_settings = len(sweep.table[sweep.keys].drop_duplicates()) if sweep.axes else 1
    n_seeds = len(sweep.table[list(sweep.seeds)].drop_duplicates()) if sweep.seeds else 1
    figures = [
        (f"{statuses.count('finished')} of {len(statuses)}", "jobs finished"),
        (str(n_settings), "setting" + "s" * (n_settings != 1)),
    ]
    figures += [(str(n_seeds), "seed" + "s" * (n_seeds != 1)), (duration(sum(job.seconds for job in sweep.jobs)), "of all jobs together")]
    if n_steps:
        figures.append((f"{100 * sum(job.n_reused for job in sweep.jobs) / n_steps:.0f}%", "of the steps reused"))
    swept = [f"<li><b>{escape(axis.key)}</b> {escape(', '.join(map(_cut, axis.values)))}</li>" for axis in sweep.axes]
    swept += [f"<li><b>{escape(key)}</b> {escape(', '.join(sorted({*sweep.table[key]} - {''}, key=_natural)))}</li>" for key in sweep.seeds]
    return tiles(figures) + (f"<h2>What was swept</h2><ul class='swept'>{''.join(swept)}</ul>" if swept else "")


def _trouble(sweep: SweepData) -> str:
    """Which jobs did not finish, and of what."""
    reasons: dict[str, list[Job]] = {}
    for job in sweep.jobs:
        if job.status != "finished":
            reasons.setdefault(job.error or "never started", []).append(job)
    if not reasons:
        return ""
    lines = []
    for reason, jobs in reasons.items():
        named = ", ".join(str(job.number) for job in jobs[:_MOST_NAMED]) + (
            f" and {len(jobs) - _MOST_NAMED} more" * (len(jobs) > _MOST_NAMED)
        )
        said = f"job{'s' * (len(jobs) > 1)} {named}"
        if len(jobs) == 1 and sweep.axes:
            (row,) = sweep.table[sweep.table["job"] == jobs[0].number].to_dict("records")
            said += f" ({describe_sweep(sweep.axes, row)})"
        lines.append(f"<li><b>{escape(said)}</b> {escape(reason)}</li>")
    n = sum(map(len, reasons.values()))
    return trouble(f"{n} of {len(sweep.jobs)} jobs did not finish", f"<ul>{''.join(lines)}</ul>")


def _best(sweep: SweepData) -> str:
    """The best settings, by the main figure and by the one of the validation."""
    if not sweep.figures:
        return "<p>No finished job has measured anything by which settings could be compared.</p>"
    by = [figure for figure in dict.fromkeys([sweep.figures[0], VALIDATION]) if figure in sweep.figures]
    found = [(figure, one) for figure in by for one in best(sweep, figure)]
    if not sweep.axes:
        figures = ", ".join(f"{escape(name)} {_share(*values)}" for name, values in found[0][1].figures.items())
        return f"<h2>Result</h2><p>One setting, {many(found[0][1].n, 'seed')}: {figures}.</p>"
    conditions = list(dict.fromkeys(name for _, one in found for name in one.condition))
    order = list(dict.fromkeys(tuple(one.condition.items()) for _, one in found))
    rows: dict[tuple[Any, ...], tuple[list[str], Best]] = {}
    for figure, one in sorted(found, key=lambda item: order.index(tuple(item[1].condition.items()))):
        rows.setdefault((*one.condition.items(), *one.setting.items()), ([], one))[0].append(figure)
    lines = [
        [
            *(_cut(one.condition.get(name, "")) for name in conditions),
            ", ".join(f"{name}={_cut(value)}" for name, value in one.setting.items()) or "the only choice",
            "both" if len(chosen) == 2 else chosen[0],
            *(_share(*one.figures[figure]) if figure in one.figures else "" for figure in by),
            str(one.n),
            "one seed, no interval" if one.n_within is None else f"{one.n_within} of {many(one.n_others, 'other')}",
        ]
        for chosen, one in rows.values()
    ]
    headings = [*conditions, "setting", "the best by", *by, "seeds", "within its interval"]
    words = "A setting within the interval of the best is not told apart from it by this sweep."
    if VALIDATION in by and len(by) > 1:
        words += f" The figure that a setting was chosen by flatters it a little: choose by {VALIDATION}, and quote the other."
    return f"<h2>The best settings</h2>{table(headings, lines)}<p class='note'>{words}</p>"


def _figures(pictures: Sequence[Picture]) -> Iterator[str]:
    """The drawings, until the page is as large as it may be; of the others the places."""
    drawn = 0
    for picture in pictures:
        svg = picture.svg()
        drawn += len(svg)
        place = f"{PICTURES}/{picture.name}.png"
        shown = svg if drawn <= MOST_DRAWN else f"<a href='{place}'>{place}</a>"
        yield f"<figure><div class='wide'>{shown}</div><figcaption>{escape(picture.title)}</figcaption></figure>"


def _settings(sweep: SweepData) -> str:
    """Means and intervals of every setting."""
    if not sweep.axes or not sweep.figures:
        return ""
    named = {figure: aggregate(sweep.table, sweep.keys, sweep.seeds, figure) for figure in sweep.figures}
    shares = {figure: {tuple(row[key] for key in sweep.keys): row for row in means.to_dict("records")} for figure, means in named.items()}
    given = [axis.key for axis in sweep.axes if axis.condition]
    place = {one: number for number, one in enumerate(dict.fromkeys(sweep.table[given].itertuples(index=False, name=None)))}
    ordered = sorted(
        shares[sweep.figures[0]].items(), key=lambda item: (place.get(tuple(item[1][key] for key in given), 0), -item[1]["mean"])
    )
    lines = []
    for setting, row in ordered[:MOST_SETTINGS]:
        figures = [shares[figure].get(setting) for figure in sweep.figures]
        lines.append([*map(_cut, setting), str(row["n"]), *(_share(one["mean"], one["half"]) if one else "" for one in figures)])
    more = f", the first {MOST_SETTINGS} of {len(ordered)}" if len(ordered) > MOST_SETTINGS else ""
    headings = [*(axis.name for axis in sweep.axes), "seeds", *sweep.figures]
    return folded(f"Settings: means over seeds, in %{more}", table(headings, lines), is_open=len(ordered) <= _MOST_NAMED)


def _jobs(sweep: SweepData) -> str:
    """A line a job."""
    skipped = {"overrides", "error", "work_seconds", "steps_reused", "job", "status", "seconds"}
    columns = [name for name in map(str, sweep.table) if name not in skipped]
    figures = [name for name in columns if name in HEADLINES]
    names = {axis.key: axis.name for axis in sweep.axes} | dict.fromkeys(sweep.seeds[:1], "seed")
    lines = []
    for row in sweep.table[:MOST_JOBS].to_dict("records"):
        values = ["" if pd.isna(row[name]) else percent(row[name]) if name in figures else _cut(str(row[name])) for name in columns]
        cost = [f"{row['seconds']:.1f}", str(row["steps_reused"])] if row["seconds"] else ["", ""]
        lines.append([str(row["job"]), str(row["status"]), *values, *cost, shortened(str(row["error"]), 300)])
    headings = ["job", "status", *(names.get(name, name) for name in columns), "seconds", "steps reused", "error"]
    if not any(line[-1] for line in lines):
        headings, lines = headings[:-1], [line[:-1] for line in lines]
    more = f", the first {MOST_JOBS} of {len(sweep.jobs)}" if len(sweep.jobs) > MOST_JOBS else ""
    return folded(f"Jobs: figures in %{more}", table(headings, lines), is_open=len(sweep.jobs) <= _MOST_NAMED)


def _shared(sweep: SweepData) -> str:
    """What all jobs were given alike."""
    given = [set(job.overrides) for job in sweep.jobs if job.overrides]
    alike = [word for word in sweep.jobs[0].overrides if all(word in words for words in given)]
    return folded("What all jobs were given", f"<p><code>{escape(' '.join(alike))}</code></p>", is_open=False) if alike else ""


def _share(mean: float, half: float) -> str:
    return percent(mean) if pd.isna(half) else f"{percent(mean)} ± {percent(half)}"


def _natural(text: str) -> tuple[float, str]:
    return (float(text) if re.fullmatch(r"\d+", text) else float("inf"), text)


def _cut(text: str) -> str:
    return shortened(text, 60)


def _newest() -> Path:
    """The folder of the home's newest sweep.

    Raises
    ------
    BCCPError
        If there is none.
    """
    signs = [sign for name in ("multirun.yaml", "0") for sign in (home() / "outputs").glob(f"*/{name}")]  # a search has only jobs
    found = sorted(signs, key=lambda path: path.stat().st_mtime)
    if not found:
        raise BCCPError(f"no sweep is in {home() / 'outputs'}: run one with -m, or give the folder of one: bccp sweep-report folder")
    return found[-1].parent


def find_folder(given: str) -> Path:
    """The folder of a sweep, by its path or its id; the newest one's where nothing is given.

    Raises
    ------
    BCCPError
        If there is none.
    """
    folder = expanded(given, option="DIR") if given else _newest()
    if not folder.exists() and (home() / "outputs" / given).is_dir():
        folder = home() / "outputs" / given
    if not folder.is_dir():
        wrong = "is no folder" if folder.exists() else "does not exist"
        raise BCCPError(f"DIR={given} {wrong}: give the folder or the id of a sweep, or nothing for the newest")
    return folder
