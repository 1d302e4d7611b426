"""Subcommands that show results: ``ui``, ``report``, ``sweep-report``, ``compare``."""

from __future__ import annotations

import os
import sys
import webbrowser
from pathlib import Path

import click

from bccp.cli.parameters import RUN, emit, handle_errors, json_option, talk


@click.command()
@click.option("--port", type=click.IntRange(1, 65535), default=5000, show_default=True, help="Port of the page.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0: other machines reach it too.")
@handle_errors
def ui(port: int, host: str) -> None:
    """Open MLflow's page on the store that runs are recorded in.

    The address of a tracking server is printed instead, where runs are recorded there.

    \b
    Example:
      bccp ui --port 5001
    """
    from bccp.core.home import keep_within_home
    from bccp.core.redaction import redact
    from bccp.tracking.backends import ledger_uri
    from bccp.tracking.store import Ledger

    uri, note = ledger_uri(None)
    if note:
        print(note, flush=True)
    if uri.startswith("http"):
        print(f"runs are recorded on a tracking server: {redact(uri)}", flush=True)
        return
    keep_within_home()
    Ledger(uri)  # made where there is none, so that the page opens on a store that is whole
    print(f"MLflow's page on {redact(uri)}: http://{host}:{port} (Ctrl-C ends it)", flush=True)
    command = [sys.executable, "-m", "mlflow", "ui", "--host", host, "--port", str(port)]
    environment = {**os.environ, "MLFLOW_BACKEND_STORE_URI": uri}  # not an argument: others see those, a password too
    os.execve(sys.executable, command, environment)  # nosec B606


@click.command()
@click.argument("run", type=RUN, default="")
@click.option("--open/--no-open", "open_it", default=True, help="Open it in a browser, where there is a screen.")
@json_option
@handle_errors
def report_command(run: str, open_it: bool, as_json: bool) -> None:
    """Make the page on a run, and open it where there is a screen.

    RUN is a run's id or its first 6 digits, a run folder or its name, or a summary.json; the newest where it is left out.

    \b
    Example:
      bccp report 2026-01-31_12-00-00-ab12cd
    """
    from bccp.reporting.run_report import report_on
    from bccp.tracking.finished_runs import read_summary

    with talk(as_json):
        page = report_on(run)
    if as_json:
        emit({"report": str(page), **read_summary(page.parent / "summary.json", option="RUN")})
        return
    print(f"report: {page}", flush=True)
    if open_it and (sys.platform in ("darwin", "win32") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        webbrowser.open(page.as_uri())


@click.command("sweep-report")
@click.argument("folder", metavar="[DIR]", default="")
@json_option
@handle_errors
def sweep_report(folder: str, as_json: bool) -> None:
    """Make the page on a sweep, whatever became of its jobs.

    DIR is the sweep's folder or its id; the newest where it is left out.

    \b
    Example:
      bccp sweep-report
    """
    from bccp.reporting.sweep_report import TABLE, find_folder, write_report

    with talk(as_json):
        page = write_report(find_folder(folder))
    emit({"report": str(page), "table": str(page.parent / TABLE)}) if as_json else print(f"sweep report: {page}", flush=True)


@click.command()
@click.argument("a", type=RUN)
@click.argument("b", type=RUN)
@click.option("--out", type=click.Path(path_type=Path), help="Folder to write to.  [default: compare/A_B in BCCP_HOME]")
@json_option
@handle_errors
def compare_command(a: str, b: str, out: Path | None, as_json: bool) -> None:
    """Put two runs, or two versions of the data, side by side.

    A and B are runs as for report, or clean_data:<digest>. Differences are B minus A, with a paired 95% interval where both were
    measured on the same images.

    \b
    Example:
      bccp compare ab12cd 34ef56
    """
    from bccp.reporting.compare import COMPARISON_PAGE, FIGURES, IMAGES, compare_named, comparison_page

    with talk(as_json):
        found, place = compare_named(a, b, out)
    if as_json:
        tables = {"settings": found.settings, "versions": found.versions, "images": found.images, "figures": found.figures}
        rows = {name: None if table is None else table.to_dict("records") for name, table in tables.items()}
        emit({"a": found.a, "b": found.b, **rows, "notes": found.notes, "folder": str(place)})
    else:
        print(f"{comparison_page(found)}\nwritten: {place / COMPARISON_PAGE}, {FIGURES}, {IMAGES}", flush=True)
