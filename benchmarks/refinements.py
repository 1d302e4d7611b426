"""Gain and cost of refinements of the label posterior: ``python -m benchmarks.refinements``.

    python -m benchmarks.refinements [--seeds 5] [--data images.zip --feedback people.csv,others.csv] [--corruptions mixed]
        [--noises uniform confusions] [--accuracies 0.5 0.7] [-- Hydra options]

On the same images, with the same Monday model and its posterior, against the truth:

* ``none``: Monday's posterior as it is.
* ``student``: the default. A model that is trained on the posteriors judges the images again.
* ``cross-fit``: as many students as ``bayes_cutoff.folds``; each image is judged by the one that did not learn its posterior.
* ``two students``: the mean of two, from different seeds.
* ``two Monday models``: the posterior of two models' mean; no student.
* ``co-training``: two Monday models, two students. Each student learns the posterior of the Monday model that has the other's seed; their
  mean judges.
* ``consistency``: a student. Where a label is disbelieved, what the averaged weights say of the image as it is, if they are sure, is one
  more target of the augmented image.
* ``ELR``: a student, with the early-learning regulariser for all judged images.

All students have the recipe and the epochs of ``bayes_cutoff``; each posterior is cut at the highest expected F1, without the guardrail.
What has been measured is kept under ``BCCP_HOME/benchmarks/refinements``: started again, it goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import io
import sys
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

import bccp
from bccp.core import config, config_schema
from bccp.core.config_schema import MondayModel
from bccp.core.digests import file_digest
from bccp.core.errors import BCCPError
from bccp.core.home import home
from bccp.core.paths import ROOT
from bccp.core.runtime import device
from bccp.core.step_context import Context
from bccp.data import tables
from bccp.data.dataset import open_days
from bccp.labels import bayes_cutoff, calibration, label_scoring, posterior
from bccp.labels.mc_dropout import stochastic_passes
from bccp.labels.student import student_probabilities
from bccp.models.monday_model import open_monday_model
from bccp.models.training_set import one_hot, trusted_mirror
from bccp.pipeline.step import RunningStep
from bccp.tracking.wandb_run import NoMirror
from benchmarks import labels, students
from benchmarks.label_tables import OURS, Found, Result
from benchmarks.measures import estimate, interval, paired, read_seeds

Float = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

STUDENT = "student"
FORWARD = 1 / 3
"""Cost of a forward pass as a share of training on the image: the way back is twice as long."""


class Monday(NamedTuple):
    """The judgement of one or more models that know only Monday, and the cost of their training."""

    belief: label_scoring.LabelPosterior
    most: float
    n_models: int
    seconds: float


class Outcome(NamedTuple):
    """A posterior (N, K), and its cost: seconds of training, and images that training saw (a forward pass counts as ``FORWARD`` of one)."""

    posterior: Float
    seconds: float
    n_seen: float


class Case:
    """One cell and seed: N judged images, their given labels, and what models say of them.

    Parameters
    ----------
    bench : Bench
    job : Job
        Is run first, so that all that the step rests on is there.
    """

    def __init__(self, bench: labels.Bench, job: labels.Job) -> None:
        steps = f"main.execute_steps=[{','.join(labels.JUDGING)}]"
        summary = bccp.run([*bench.overrides(job), steps, "tracking.wandb=disabled"])
        self.section = config.section(config_schema.BayesCutoff, summary["config"]["bayes_cutoff"], "bayes_cutoff", ROOT)
        if self.section.mixup_alpha or self.section.freeze_backbone:
            raise BCCPError("consistency and ELR need single images: use bayes_cutoff.mixup_alpha=0 and bayes_cutoff.freeze_backbone=false")
        self.ledger = bench._ledger(summary["config"]["tracking"]["mlflow_uri"])
        run_id = self.ledger.start("refinements")  # for the notes of what is taken from the ledger
        self.ledger.end(run_id, "FINISHED")
        versions = {name: labels._outputs(summary)[name] for name in ("clean_data", "segregated_data", "given_labels", "true_labels")}
        context = Context(self.ledger.uri, "disabled", None, "bccp", False, "refinements", torch.get_num_threads())
        self.step = RunningStep("bayes_cutoff", self.section, versions, context, self.ledger, run_id, NoMirror())
        self.days = open_days(self.step.input("segregated_data"), self.step.input("clean_data"))
        table = tables.read(self.step.input("given_labels") / "given_labels.csv").sort_values("image")
        self.ids, self.given = table["image"].tolist(), self.days.encode(table["label"].tolist())
        self.trusted = self.days.ids("monday", "train")
        self.seed = self.section.random_seed
        self.other_seed = label_scoring._seed(self.seed, "second model") % 2**32
        self.asked: dict[str, Any] = {"passes": self.section.passes, "seed": label_scoring._seed(self.seed, "dropout")}

    def result(self, name: str) -> Result:
        """Judge the labels by one of ``VARIANTS``, and compare with the truth where the step does."""
        found = VARIANTS[name](self)
        score, above = self.cut(found.posterior)
        truth = tables.read(self.step.input("true_labels") / "true_labels.csv").set_index("image")["label"]
        known = np.isin(self.ids, list(set(self.days.ids(self.days.target_day, "train")) & set(truth.index)))
        true = self.days.encode(truth[np.array(self.ids, object)[known]].tolist())
        metrics = bayes_cutoff.detection_metrics(above[known], score[known], self.given[known], true, self.days.classes)
        metrics["labels_right"] = float((found.posterior[known].argmax(1) == true).mean())
        cost = found.n_seen / (labels.EPOCHS_A_TRAINING * (len(self.trusted) + len(self.ids)))
        return Result(metrics, found.seconds, cost, None)

    def cut(self, post: Float) -> tuple[Float, Mask]:
        """P(wrong) of each given label, and whether it is above the cut-off."""
        score = bayes_cutoff.probability_wrong(post, self.given)
        return score, score > posterior.expected_f1_cutoff(score)

    @cached_property
    def first(self) -> Monday:
        """The step's own."""
        return self._monday(self.seed)

    @cached_property
    def second(self) -> Monday:
        """One of another seed."""
        return self._monday(self.other_seed)

    @cached_property
    def both(self) -> Monday:
        """Their mean."""
        return self._monday(self.seed, self.other_seed)

    def by_monday(self, monday: Monday) -> Outcome:
        """Without students."""
        return Outcome(monday.belief.posterior, monday.seconds, monday.n_models * self.section.epochs * len(self.trusted))

    def by_students(self, monday: Monday, *taught: tuple[Monday, int]) -> Outcome:
        """By the mean of the step's own students, each of a posterior and with a seed."""
        probs, seconds = [], 0.0
        for teacher, seed in taught:
            post = teacher.belief.posterior
            probs.append(student_probabilities(self.step, self.days, self.ids, post, self._recipe(seed), fold=None, **self.asked))
            seconds += self._seconds("student")
        return self._judged_again(monday, np.mean(probs, axis=0), seconds, len(taught) * self._n_seen())

    def by_cross_fit(self) -> Outcome:
        """By the step's own students of the other folds."""
        fold, post = label_scoring._folds(self.step, self.days, self.ids, self.given, "round 1"), self.first.belief.posterior
        probs = student_probabilities(self.step, self.days, self.ids, post, self._recipe(self.seed), fold=fold, **self.asked)
        n_folds = len(np.unique(fold))
        n_seen = self.section.refine_epochs * (n_folds * len(self.trusted) + (n_folds - 1) * len(self.ids))
        return self._judged_again(self.first, probs, self._seconds("student"), n_seen)

    def by_term(self, make_term: Callable[[Mask], students.Term], chosen: Mask, *, n_more: float) -> Outcome:
        """By a student with a term in its loss for the chosen ones of the judged images, which costs as much as ``n_more`` images."""
        started = time.perf_counter()
        recipe = self._recipe(self.seed)
        recipe = dataclasses.replace(recipe, mirror="always" if trusted_mirror(recipe.mirror, self.days) else "never")
        targets = np.concatenate([one_hot(self.days.labels(self.trusted), len(self.days.classes)), self.first.belief.posterior])
        term = make_term(np.concatenate([np.zeros(len(self.trusted), np.bool_), chosen]))
        model = students.fit_with_term(self.days, recipe, self.trusted + self.ids, targets, term, device=self.step.device)
        probs = stochastic_passes(model, self.days, self.ids, device=self.step.device, **self.asked).mean_probs
        return self._judged_again(self.first, probs, time.perf_counter() - started, self._n_seen() + n_more)

    def by_consistency(self) -> Outcome:
        """The averaged weights look at the disbelieved images once more, forwards."""
        _, disbelieved = self.cut(self.first.belief.posterior)
        n_more = FORWARD * self.section.refine_epochs * float(disbelieved.sum())
        return self.by_term(students.consistency_term, disbelieved, n_more=n_more)

    def _monday(self, *seeds: int) -> Monday:
        probs, val_probs, seconds = [], [], 0.0
        val_ids = self.days.ids("monday", "val")
        for seed in seeds:
            model = open_monday_model(self.step, self.days, dataclasses.replace(self.section.monday_model(), random_seed=seed))
            seconds += self._seconds("monday_model")
            for ids, found in ((self.ids, probs), (val_ids, val_probs)):
                found.append(stochastic_passes(model, self.days, ids, device=self.step.device, **self.asked).mean_probs)
        most = calibration.most_believed(calibration.fit_temperature(np.mean(val_probs, axis=0), self.days.labels(val_ids)))
        votes = label_scoring._read_votes(self.step, self.days, self.ids)
        return Monday(label_scoring._believe(np.mean(probs, axis=0), self.given, votes, most=most), most, len(seeds), seconds)

    def _judged_again(self, monday: Monday, mean_probs: Float, seconds: float, n_seen: float) -> Outcome:
        likelihood, before = monday.belief.likelihood, self.by_monday(monday)
        *_, probs = calibration.judge_by_student(mean_probs, likelihood, most=monday.most)
        return Outcome(posterior.combine(probs, likelihood), before.seconds + seconds, before.n_seen + n_seen)

    def _n_seen(self) -> int:
        """Images that a student sees."""
        return int(self.section.refine_epochs) * (len(self.trusted) + len(self.ids))

    def _recipe(self, seed: int) -> MondayModel:
        """A student's."""
        recipe: MondayModel = self.section.monday_model()
        return dataclasses.replace(recipe, epochs=self.section.refine_epochs, random_seed=label_scoring._seed(seed, "round 1") % 2**32)

    def _seconds(self, name: str) -> float:
        """Seconds that the artifact taken last from the ledger took to make."""
        made = labels.maker(self.ledger, self.ledger.client.get_run(self.step.run_id), name)
        return float(made.info.end_time - made.info.start_time) / 1000


VARIANTS: dict[str, Callable[[Case], Outcome]] = {
    "none": lambda case: case.by_monday(case.first),
    STUDENT: lambda case: case.by_students(case.first, (case.first, case.seed)),
    "cross-fit": lambda case: case.by_cross_fit(),
    "two students": lambda case: case.by_students(case.first, (case.first, case.seed), (case.first, case.other_seed)),
    "two Monday models": lambda case: case.by_monday(case.both),
    "co-training": lambda case: case.by_students(case.both, (case.second, case.seed), (case.first, case.other_seed)),
    "consistency": lambda case: case.by_consistency(),
    "ELR": lambda case: case.by_term(students.early_learning_term, np.ones(len(case.ids), np.bool_), n_more=0),
}


class Bench(labels.Bench):
    """Runs the variants of a cell and seed on what is opened once."""

    _opened: tuple[labels.Cell, int] | None = None
    _case: Case

    def key(self, job: labels.Job) -> str:
        """Everything that a job's result depends on, as 64 hex digits."""
        own = [file_digest(Path(module)) for module in (__file__, students.__file__)]
        return hashlib.sha256(" ".join([super().key(job), job.variant.name, *own]).encode()).hexdigest()

    def run(self, job: labels.Job, audit_file: Path | None = None) -> Result:
        """Measure and keep what came of it."""
        with contextlib.redirect_stdout(io.StringIO()):
            if self._opened != (job.cell, job.seed):
                self._case, self._opened = Case(self, job), (job.cell, job.seed)
            result = self._case.result(job.variant.name)
        self.check_sources()
        about = {"cell": job.cell.name, "seed": job.seed, "variant": job.variant.name, "commit": self.commit, "trained": False}
        self.store.add(self.key(job), result, about)
        return result


def report(found: Found) -> str:
    """The tables as markdown: over all cells, and where there are several, of each."""
    cells = list(dict.fromkeys(cell for cell, _ in found))
    lines = _table(found, cells)
    for cell in cells if len(cells) > 1 else []:
        lines += ["", f"## {cell}", "", *_table(found, [cell])]
    return "\n".join(lines)


def _table(found: Found, cells: Sequence[str]) -> list[str]:
    """Means over cells, with 95% intervals over the seeds that have all of them."""

    def series(name: str, figure: str) -> dict[int, float]:
        rows = [found.get((cell, name), {}) for cell in cells]
        common = sorted(set.intersection(*(set(row) for row in rows)))
        return {s: float(np.mean([{**r[s]._asdict(), **r[s].metrics}.get(figure, np.nan) for r in rows])) for s in common}

    header = ["refinement", "AUROC", "F1", "labels right", f"F1 - {STUDENT}", f"AUROC - {STUDENT}", "trainings", "seconds"]
    lines = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    for name in VARIANTS:
        row = [name, *(interval(list(series(name, figure).values())) for figure in ("auroc", "f1", "labels_right"))]
        row += ["" if name == STUDENT else interval(paired(series(name, f), series(STUDENT, f))) for f in ("f1", "auroc")]
        row += [f"{estimate(list(series(name, figure).values())).mean:.2f}" for figure in ("trainings", "seconds")]
        lines.append(f"| {' | '.join(row)} |")
    return lines


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print and store; the status is 1 where a variant failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=read_seeds, default=range(1, 6), help="a number (3: 1 to 3) or a range (4-6)")
    parser.add_argument("--data", type=Path, help="folder or archive with a folder a class, instead of digits")
    parser.add_argument("--feedback", help="files of given labels for it, image,label[,user], separated by commas: a cell each")
    parser.add_argument("--corruptions", nargs="+", default=["mixed"])
    parser.add_argument("--noises", nargs="*", default=["uniform", "confusions"], help="none with --data: the feedback files alone")
    parser.add_argument("--accuracies", nargs="+", type=float, default=[0.5, 0.7])
    parser.add_argument("options", nargs="*", help="Hydra options of all runs, after --")
    given = parser.parse_args(words)
    source, feedback = labels.chosen_images(given.data, given.feedback)
    axes = labels.read_axes(ROOT / "experiments" / ("labels_data.yaml" if given.data else "labels.yaml"))
    axes |= {labels.CORRUPTION: given.corruptions, labels.NOISE: given.noises, labels.ACCURACY: given.accuracies, labels.SEED: given.seeds}
    variants = [labels.Variant(name, OURS, ("bayes_cutoff.rounds=0",)) for name in VARIANTS]
    plan = labels.grid(axes, feedback=feedback)._replace(variants=variants)
    store = labels.Store(home() / "benchmarks" / "refinements")
    bench = Bench(store, [*source, *plan.fixed], labels.free_options(given.options), trained=False)
    found, problems = labels.measure(bench, plan)
    command = "python -m benchmarks.refinements " + " ".join(words if words is not None else sys.argv[1:])
    lines = [f"# Refinements of the label posterior: {given.data.stem if given.data else 'digits'}", ""]
    lines += [f"`{command.strip()}`, commit {bench.commit or 'unknown'}, {device.device_type()}.", ""]
    lines += [f"Means ± 95% intervals over {len(plan.seeds)} seeds, of means over {len(plan.cells)} cells; differences paired by seed.", ""]
    text = "\n".join([*lines, report(found) if found else "nothing measured", *(f"* failed: {problem}" for problem in problems)])
    print(text)
    (store.folder / f"{given.data.stem if given.data else 'digits'}.md").write_text(text + "\n", encoding="utf-8")
    return int(bool(problems))


if __name__ == "__main__":
    try:
        status = main()
    except (BCCPError, labels.ChangedError) as error:
        print(f"error: {error}", file=sys.stderr)
        status = 1
    sys.exit(status)
