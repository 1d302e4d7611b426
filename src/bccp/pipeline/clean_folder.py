"""Cleaning of one place of images (``bccp clean PATH``): labels are judged, and a list, a page and the cleaned folder are made of it.

It is the pipeline up to ``bayes_cutoff``, with options that the place implies (:mod:`bccp.pipeline.place_options`). What a person opens
afterwards lies in the run's own folder, and, where they ask for it, with the originals in a folder of theirs
(:mod:`bccp.pipeline.exports.own_folder`). The same command again computes nothing anew but what a changed option or an audit asks for.
"""

from __future__ import annotations

import json
import math
import os
import shlex
import shutil
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from bccp.core import progress, provenance
from bccp.core.errors import BCCPError
from bccp.core.overrides import first_flag
from bccp.core.paths import expanded
from bccp.core.redaction import redact_url
from bccp.core.run_summary import PAGE, Summary
from bccp.core.shell_commands import shell_command
from bccp.data import archives, tables
from bccp.labels.checking_list import CHECKING_LIST, unchecked
from bccp.labels.expert_labels import RANDOM, SUSPECT
from bccp.labels.findings import N_RANDOM, Finding, finding_sentence, percent
from bccp.pipeline.compose import compose
from bccp.pipeline.export_dataset import place_files
from bccp.pipeline.exports.label_changes import LabelChanges, Rule, label_changes
from bccp.pipeline.exports.labels_list import LIST, labels_table, write_labels_list
from bccp.pipeline.exports.own_folder import OwnFolder
from bccp.pipeline.place_options import read_place
from bccp.pipeline.runner import new_run_folder, run_composed
from bccp.reporting.folder_checks_page import folder_checks_for_run
from bccp.reporting.suspects_page import pages_for_run
from bccp.tracking import wandb_client
from bccp.tracking.backends import ledger_uri
from bccp.tracking.store import Ledger
from bccp.tracking.versions import qualified

IMAGES = "images"
"""Folder of the originals in the cleaned folder, a folder a class."""

SECONDS_AN_IMAGE = 5
"""It takes a person to check one, for the estimate of what an audit costs."""

_OPTIONS_OF_CLEAN = {
    "main.execute_steps": "the steps up to bayes_cutoff are run: use bccp run for others",
    "data.path": "it is PATH",
    "data.trusted": "give --trusted",
    "noisy_labels.feedback_file": "give --feedback",
    "noisy_labels.label": "labels are what it judges: use bccp run",
    "bayes_cutoff.enabled": "labels are what it judges: use bccp run",
    "bayes_cutoff.audit_file": "give --audit",
}
"""Keys that the command does not take, and what to do instead."""


@dataclass(frozen=True)
class CleanRequest:
    """What a person asks for.

    Attributes
    ----------
    place : str
        A folder, a zip or tar file, or a URL.
    feedback, trusted, audit, out : str or None
        A table of answers; a folder of trusted images; a table of checked labels; the folder to write.
    rule : Rule
        Which labels are changed in the cleaned folder.
    words : tuple of str
        Hydra's overrides.
    """

    place: str
    feedback: str | None = None
    trusted: str | None = None
    audit: str | None = None
    out: str | None = None
    rule: Rule = field(default_factory=Rule)
    words: tuple[str, ...] = ()

    def command(self, **changed: str) -> str:
        """Write the command for a shell, with other values of its options."""
        options = {f"--{name}": changed.get(name) or getattr(self, name) for name in ("feedback", "trusted", "audit", "out")}
        place = redact_url(self.place) if "://" in self.place else self.place
        parts = ["clean", place, *(part for name, value in options.items() if value for part in (name, value))]
        if self.rule != Rule():
            parts += ["--action", self.rule.action, "--min-confidence", f"{self.rule.min_confidence:g}"]
        parts += ["--", *self.words] if self.words else []
        return " ".join([shell_command("bccp"), *map(shlex.quote, parts)])


@dataclass(frozen=True)
class Cleaned:
    """Result of a cleaning.

    Attributes
    ----------
    finding : Finding
        None for a method that gives no P(wrong).
    changes : LabelChanges
    page, labels : Path
        What to open: the page of suspects, or where there is none the run's report; and the list of all images.
    checks : Path or None
        The page on what else the folder hides, where features have judged.
    folder : Path
        Of the run.
    out : Path or None
        The cleaned folder.
    n_random, n_suspects : int
        Images that are left to be checked: drawn at random, and suspects.
    """

    request: CleanRequest
    finding: Finding | None
    changes: LabelChanges
    page: Path
    checks: Path | None
    labels: Path
    folder: Path
    out: Path | None
    n_random: int
    n_suspects: int

    def document(self) -> dict[str, Any]:
        """For ``--json``."""
        places = {
            "page": str(self.page),
            "checks": str(self.checks) if self.checks else None,
            "labels": str(self.labels),
            "run": str(self.folder),
            "out": str(self.out) if self.out else None,
        }
        finding = self.finding.to_json() if self.finding else None
        to_check = {"random": self.n_random, "suspects": self.n_suspects}
        return {"finding": finding, **self.changes.figures(), "to_check": to_check, **self._told(), **places}

    def lines(self) -> list[str]:
        """Five lines for the user: what was found, how sure that is, where to look, what to do next, and what that costs."""
        told = self._told()
        return [f"{name + ':':<{max(map(len, told)) + 1}} {said}" for name, said in told.items()]

    def _told(self) -> dict[str, str]:
        return {"found": self._found(), "sure": self._sure(), "page": self._pages(), "next": self._next(), "cost": self._cost()}

    def _found(self) -> str:
        if self.finding:
            return finding_sentence(self.finding)
        return f"{self.n_suspects} labels are suspects; this method (bayes_cutoff.method) does not say how many are wrong"

    def _sure(self) -> str:
        finding = self.finding
        if finding is None:
            return "not known: bayes_cutoff.method=label_posterior gives each label's P(wrong)"
        if finding.verdict == "blind":
            return "its answers fit these labels no better than the commonest class would: no figure of it means anything"
        checked = f"{finding.n_audited or 'no'} label{'s were' if finding.n_audited > 1 else ' was'} checked"
        unsure = f", of {finding.n_unsure} more nobody was sure" if finding.n_unsure else ""
        trust = "some images are trusted" if finding.trusted else "no image is trusted"
        if finding.verdict == "nothing":
            differs = "" if finding.at_most is None else f": the judge would have given {percent(finding.at_most)} of them otherwise"
            return f"{trust} and {checked}{unsure}, so single wrong labels may be among them{differs}"
        ends = "it is an estimate" if finding.at_most is None else "the share lies between two ends, and only checking can tell where"
        return f"{trust} and {checked}{unsure}, so {ends}"

    def _pages(self) -> str:
        return f"{self.page}, and on what else the folder hides {self.checks}" if self.checks else str(self.page)

    def _next(self) -> str:
        request, finding = self.request, self.finding
        if self._lacks_trust():
            return f"give a folder of images whose labels are right, a folder a class: {request.command(trusted='FOLDER')}"
        if not self.n_random + self.n_suspects or (finding and finding.n_audited and finding.at_most is None):  # enough was checked
            if self.out is None:
                return f"write the cleaned folder: {request.command(out='cleaned')}"
            images = provenance.override("data.path", str(self.out / IMAGES))
            return f"train on it: {shell_command('bccp')} run data.source=folder {shlex.quote(images)}"
        again = request.command(audit=request.audit or "checked.csv", out=request.out or "cleaned")
        unless = "nothing has to be done; to be surer, " if finding and finding.verdict == "nothing" else ""
        return f"{unless}check images on the page, press its button for checked.csv, then: {again}"

    def _lacks_trust(self) -> bool:
        """Nothing but trusted images helps: checking single labels leaves a judge blind."""
        return self.finding is not None and self.finding.verdict == "blind" and not self.finding.trusted

    def _cost(self) -> str:
        n_images = self.n_random + self.n_suspects
        if self._lacks_trust():
            return f"about {_minutes(N_RANDOM)} to pick out {N_RANDOM} such images, {SECONDS_AN_IMAGE} seconds each; more are better"
        if not n_images:
            return "nothing is left to be checked"
        alone = f"; the {self.n_random} at random alone: {_minutes(self.n_random)}" if self.n_random and self.n_suspects else ""
        return f"about {_minutes(n_images)} to check the {n_images} images, {SECONDS_AN_IMAGE} seconds each{alone}"


def clean_place(request: CleanRequest) -> Cleaned:
    """Judge the labels in a place, and write the list, the page and, where asked for, the cleaned folder.

    Raises
    ------
    BCCPError
        If something in the input is wrong; before anything is run, wherever that can be told.
    """
    _refuse_words(request.words)
    _refuse_empty(request)
    audit = _existing_audit(request.audit) if request.audit else None
    told = read_place(request.place, feedback=request.feedback, trusted=request.trusted, words=request.words)
    target = OwnFolder(request.out) if request.out else None
    if target:
        _refuse_nested(target.place, told.root, request)
        target.check()
    options = [provenance.override("bayes_cutoff.audit_file", str(audit))] if audit else []
    options += _without_offline_records(request.words)
    print(told.said, flush=True)
    folder = new_run_folder()
    composed = compose([*told.overrides(request.words), *options])
    summary = run_composed(composed, folder, advise=False)  # the closing lines do
    with progress.display("list and page", done=0, total=1):
        return _conclude(request, summary, folder, Ledger(ledger_uri(composed.tracking.mlflow_uri)[0]), target)


def _refuse_words(words: Sequence[str]) -> None:
    """Refuse flags of Hydra's and keys that an option of the command stands for."""
    if flag := first_flag(words):
        raise BCCPError(f"bccp clean runs once and takes no {flag}: leave it out, or use bccp run or bccp sweep")
    for word in words:
        if instead := _OPTIONS_OF_CLEAN.get(word.partition("=")[0].lstrip("+~")):
            raise BCCPError(f"bccp clean does not take {word.partition('=')[0]}: {instead}")


def _refuse_empty(request: CleanRequest) -> None:
    """Refuse an option that names nothing, as that of a variable without a value: what it was to do would be left out unsaid."""
    for name in ("feedback", "trusted", "audit", "out"):
        if getattr(request, name) is not None and not getattr(request, name).strip():
            raise BCCPError(f"--{name} is empty: give a path, or leave the option out")


def _without_offline_records(words: Sequence[str]) -> list[str]:
    """Leave W&B out where there is no login and nobody has asked for its offline records, which take a second of each step."""
    asked = "WANDB_MODE" in os.environ or any(word.startswith("tracking.wandb=") for word in words)
    return [] if asked or wandb_client.resolve_mode("auto") != "offline" else ["tracking.wandb=disabled"]


def _existing_audit(named: str) -> Path:
    path = expanded(named, option="--audit").absolute()
    if not path.is_file():
        raise BCCPError(
            f"--audit={named} is no file: give the checked.csv that the page of suspects has made, by the path where it was saved"
        )
    return path


def _refuse_nested(out: Path, root: Path | None, request: CleanRequest) -> None:
    """Refuse a folder that holds what it is made of, or lies in it: the next cleaning would read its own result, or delete its source."""
    sources = {"PATH": root, "--trusted": request.trusted, "--feedback": request.feedback, "--audit": request.audit}
    for option, named in sources.items():
        if not named:
            continue
        given = expanded(named, option=option).resolve()
        if given == out:
            raise BCCPError(f"--out={request.out} is {option} itself, which is never changed: give another folder")
        if given.is_relative_to(out):
            raise BCCPError(f"--out={request.out} holds {option}={named}, and would be replaced as a whole: give another folder")
        if out.is_relative_to(given):
            raise BCCPError(f"--out={request.out} lies in {option}={named}, and would be read as a part of it: give a folder outside of it")


def _conclude(request: CleanRequest, summary: Summary, folder: Path, ledger: Ledger, target: OwnFolder | None) -> Cleaned:
    """Write what a person opens, and put the result into words."""
    versions = {name: version for step in summary.steps for name, version in step.outputs.items()}
    names = ("raw_data", "clean_data", "segregated_data", "cleansed_labels")
    raw, clean, segregated, cleansed = (ledger.fetch(qualified(name, versions[name])) for name in names)
    changes = label_changes(cleansed, request.rule)
    listed = labels_table(clean, segregated, changes)
    if target is None:
        write_labels_list(listed, folder / LIST)
        checks = folder_checks_for_run(folder, ledger)  # to which the other page has a link
        page = pages_for_run(folder, ledger)
        place = folder
    else:
        placed = place_files(listed)
        placed["file"] = placed["file"].map(lambda name: f"{IMAGES}/{name}" if name else "")
        with target.writing() as fresh:
            _copy_originals(raw / "images.zip", placed, fresh)
            write_labels_list(placed, fresh / LIST)
            checks = folder_checks_for_run(folder, ledger, into=fresh)
            page = pages_for_run(folder, ledger, into=fresh)
        place = target.place
    about = json.loads((cleansed / "cutoff.json").read_text(encoding="utf-8"))
    finding = Finding.from_json(about["finding"]) if "finding" in about else None
    report = tables.read(cleansed / CHECKING_LIST)
    open_rows = unchecked(report)
    return Cleaned(
        request=request,
        finding=finding,
        changes=changes,
        page=place / page.name if page else folder / PAGE,
        checks=place / checks.name if checks else None,
        labels=place / LIST,
        folder=folder,
        out=target.place if target else None,
        n_random=int((open_rows["chosen"] == RANDOM).sum()),
        n_suspects=int((open_rows["chosen"] == SUSPECT).sum()),
    )


def _copy_originals(archive: Path, placed: pd.DataFrame, folder: Path) -> None:
    """Copy each image that has a final label to its place, byte by byte."""
    written = placed.loc[placed["file"] != "", ["image", "file"]]
    with zipfile.ZipFile(archive) as packed:
        for image, file in progress.each("image", list(written.itertuples(index=False, name=None))):
            place = folder / file
            place.parent.mkdir(parents=True, exist_ok=True)
            with packed.open(image) as source, place.open("xb") as copy:
                shutil.copyfileobj(source, copy, archives.CHUNK_BYTES)


def _minutes(n_images: int) -> str:
    n = math.ceil(n_images * SECONDS_AN_IMAGE / 60)
    return f"{n} minute{'s' if n > 1 else ''}"
