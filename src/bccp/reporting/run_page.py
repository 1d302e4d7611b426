"""The page of a pipeline, from its story: what happened on one screen, then its parts, and how to repeat it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from html import escape
from typing import Any

from bccp.core import automatic, config
from bccp.labels.findings import Finding, finding_sentence
from bccp.reporting import svg
from bccp.reporting.glossary import glossary
from bccp.reporting.html import document, duration, folded, many, percent, shortened, simulation_banner, table, tiles, trouble
from bccp.reporting.run_data import MOST_LISTED, Evaluation, Figure, LabelFacts, Shown, StepTold, Story
from bccp.reporting.svg import Bar, Curve, Node

MOST_OPEN = 30
"""Longer tables are folded."""


def page(story: Story) -> str:
    """The page, whole.

    Parameters
    ----------
    story : Story

    Returns
    -------
    str
        HTML.
    """
    head = f"<h1>Pipeline <span>{escape(story.name)}</span></h1>"
    foot = f"<footer>Intervals are of 95%. Everything is in {escape(story.folder)} and in the runs that it names.</footer>"
    return document(f"Pipeline {story.name}", [head, *(part for section in PAGE_SECTIONS.values() for part in section(story)), foot])


def _trouble(story: Story) -> str:
    """Which step failed, and of what."""
    if story.status != "failed":
        return ""
    failed = next((step.name for step in story.steps if step.status == "failed"), None)
    return trouble(f"{failed} failed" if failed else "The pipeline failed", f"<p>{escape(story.error)}</p>")


def _simulation(story: Story) -> str:
    return simulation_banner(automatic.simulation_sentence(story.config))


def _sentence(story: Story) -> str:
    """What happened, in words."""
    said, labels, metrics = [], story.labels, story.metrics
    if labels:
        if finding := _finding(labels):
            words = finding_sentence(finding)
            said.append(f"{words[:1].upper()}{words[1:]}.")
        said.append(f"Of {many(labels.n, 'given label')} {labels.n_above:,} are doubted{f': {_done(labels)}' if _done(labels) else ''}.")
    if "train/images" in metrics:
        replayed = f", {int(metrics['cp_sampling/images']):,} of them replayed" if "cp_sampling/images" in metrics else ""
        said.append(f"The new model was trained on {many(int(metrics['train/images']), 'image')}{replayed}.")
    accuracy = _accuracies(story.evaluation)[:1]
    for figure in accuracy:
        said.append(f"It is right on {_with_interval(figure)} of {many(figure.n, 'test image')}.")
    if story.evaluation and not story.evaluation.verified:
        said.append("Labels of test images are the given ones (verified=false), so that this is no measure of truth.")
    return f"<p class='said'>{escape(' '.join(said))}</p>" if said else ""


def _tiles(story: Story) -> str:
    metrics, shown = story.metrics, []
    for figure in _accuracies(story.evaluation)[:1]:
        shown.append(
            (f"{percent(figure.value)}%", "test accuracy" + ("" if not story.evaluation or story.evaluation.verified else ", unverified"))
        )
    if "test/f1_macro" in metrics:
        shown.append((f"{percent(metrics['test/f1_macro'])}%", "macro-F1"))
    if "bayes_cutoff/estimated_user_accuracy" in metrics:
        shown += _share_tile(1 - metrics["bayes_cutoff/estimated_user_accuracy"], story.labels)
    if "bayes_cutoff/f1" in metrics:
        shown.append((f"{percent(metrics['bayes_cutoff/f1'])}%", "F1 of finding the wrong ones"))
    ran = [step.status for step in story.steps if step.status in ("ran", "reused")]
    shown.append(
        (duration(sum(step.seconds for step in story.steps)), f"{many(ran.count('ran'), 'step')} ran, {ran.count('reused')} reused")
    )
    return tiles(shown)


def _finding(labels: LabelFacts | None) -> Finding | None:
    return Finding.from_json(labels.about["finding"]) if labels and "finding" in labels.about else None


def _share_tile(share: float, labels: LabelFacts | None) -> list[tuple[str, str]]:
    """The share of wrong labels: two ends where that is all that is known, and nothing where none stands out."""
    finding = _finding(labels)
    which = "new labels" if finding is None or finding.trusted else "labels"
    if finding and not finding.trusted and finding.verdict != "found":
        return []
    if finding and finding.at_most is not None:
        return [(f"{percent(finding.at_least)} to {percent(finding.at_most)}%", f"of the {which} are wrong")]
    bound = ", at least," if labels and labels.about.get("audit", {}).get("at_least") else ""
    return [(f"{percent(share)}%", f"of the {which}{bound} seem wrong")]


def _flow(story: Story) -> str:
    """The steps with what flowed between them: side by side, and for a narrow screen one below another."""
    nodes = [Node(step.name, _status(step, story), _time(step), _lines(step, story)) for step in story.steps]
    broad, narrow = (svg.flow(nodes, columns=columns) for columns in (4, 1))
    return f"<div class='flow'><div class='broad'>{broad}</div><div class='narrow'>{narrow}</div></div>"


def _status(step: StepTold, story: Story) -> str:
    if step.status != "skipped":
        return step.status
    asked = (story.config.get("main") or {}).get("execute_steps") or []
    return "not reached" if story.status == "failed" and step.name in asked and not step.outputs else "left out"


def _time(step: StepTold) -> str:
    return {"ran": duration(step.seconds), "reused": "reused", "failed": "failed"}.get(step.status, "")


def _lines(step: StepTold, story: Story) -> list[str]:
    """What came out of a step, as far as it was measured."""
    if step.status not in ("ran", "reused"):
        return []
    found = story.metrics

    def of(name: str) -> int:
        return int(found.get(f"{step.name}/{name}", 0))

    def has(*names: str) -> bool:
        return all(f"{step.name}/{name}" in found for name in names)

    if step.name == "fetch_data" and has("files"):
        return [many(of("files"), "file"), f"{of('bytes') / 1e6:.1f} MB from {(story.config.get('data') or {}).get('source', '')}"]
    if step.name == "preprocessing" and has("images"):
        return [f"{many(of('images'), 'image')}, {of('classes')} classes", f"{of('rejected')} rejected, {of('duplicates')} duplicates"]
    if step.name == "segregation" and has("images"):
        days = {day: [of(f"{day}_{split}") for split in ("train", "val", "test")] for day in ("monday", "tuesday")}
        shown = {
            ("new" if day == "tuesday" else "trusted") + f" ({day.capitalize()})": counts for day, counts in days.items() if any(counts)
        }
        if _target_day(story) != "tuesday":
            shown = dict(zip(["images"], shown.values(), strict=False))
        return [
            ", ".join(f"{day} {sum(counts):,}" for day, counts in shown.items()),
            "training " + " + ".join(f"{c[0]:,}" for c in shown.values()),
        ]
    if step.name == "noisy_labels" and has("images"):
        right = f"{percent(found['noisy_labels/true_user_accuracy'])}% of them right" if has("true_user_accuracy") else ""
        return [many(of("images"), "label") + " given", right]
    if step.name == "bayes_cutoff" and story.labels:
        return [f"{story.labels.n_above:,} of {story.labels.n:,} doubted", _done(story.labels)]
    if step.name == "cp_sampling" and has("images"):
        return [f"{many(of('images'), 'image')} replayed", str((story.config.get("cp_sampling") or {}).get("type", ""))]
    if step.name == "train" and has("images"):
        validated = f"validation {percent(found['train/val_accuracy'])}%" if has("val_accuracy") else ""
        how = many(of("epochs"), "epoch") if has("epochs") else "logistic regression"
        return [f"{many(of('images'), 'image')}, {how}", validated]
    if step.name == "test" and has("images", "accuracy"):
        return [many(of("images"), "image"), f"{percent(found['test/accuracy'])}% right"]
    return []


def _done(labels: LabelFacts) -> str:
    """What became of the labels that are not believed."""
    if labels.about.get("action") == "soft":
        return f"{labels.n_changed:,} lean to another class"
    counts = {"relabelled": labels.n_changed, "dropped": labels.n_dropped}
    return ", ".join(f"{n:,} {what}" for what, n in counts.items() if n)


def _cards(story: Story) -> str:
    """Accuracy by day, noise found against given, and the verdict."""
    cards = []
    accuracies = _accuracies(story.evaluation)
    if accuracies:
        drawn = [Bar("all" if one.part == "all" else one.part.capitalize(), one.value, one.low, one.high) for one in accuracies]
        cards.append(_card("Test accuracy", svg.bars(drawn, title="test accuracy by day")))
    metrics = story.metrics
    noise = []
    if "bayes_cutoff/true_user_accuracy" in metrics:
        noise.append(Bar("wrong in truth", 1 - metrics["bayes_cutoff/true_user_accuracy"], colour="--soft"))
    if "bayes_cutoff/estimated_user_accuracy" in metrics:
        finding = _finding(story.labels)
        if finding and finding.at_most is not None:
            noise += [Bar("at least", finding.at_least, colour="--accent"), Bar("at most", finding.at_most, colour="--accent")]
        else:
            noise.append(Bar("estimated", 1 - metrics["bayes_cutoff/estimated_user_accuracy"], colour="--accent"))
    if "bayes_cutoff/kept_rate" in metrics:
        noise.append(Bar("doubted", 1 - metrics["bayes_cutoff/kept_rate"], colour="--accent"))
    if noise:
        cards.append(_card("Wrong labels, given and found", svg.bars(noise, title="share of wrong labels")))
    if story.verdict[0]:
        cards.append(_card("Verdict", f"<p><b>{escape(story.verdict[0])}</b></p><p class='note'>{escape(story.verdict[1])}</p>"))
    return f"<div class='cards'>{''.join(cards)}</div>" if cards else ""


def _card(heading: str, content: str) -> str:
    return f"<div class='card'><h3>{escape(heading)}</h3>{content}</div>"


def _accuracies(evaluation: Evaluation | None) -> list[Figure]:
    """Of all test images, and by day."""
    parts = ("all", "monday", "tuesday")
    found = {one.part: one for one in (evaluation.figures if evaluation else ()) if one.metric == "accuracy" and one.part in parts}
    return [found[part] for part in parts if part in found]


def _with_interval(figure: Figure) -> str:
    if figure.low is None or figure.high is None:
        return f"{percent(figure.value)}%"
    return f"{percent(figure.value)}% ({percent(figure.low)} to {percent(figure.high)})"


def _data(story: Story) -> Iterator[str]:
    data = story.data
    if data is None:
        return
    report = data.report
    yield "<h2>Data</h2>"
    shown = [(f"{report['images']:,}", "images"), (f"{len(report['classes']):,}", "classes"), (f"{report['rejected']:,}", "files rejected")]
    copies = [(f"{report[kind]['copies']:,}", f"{kind.partition('_')[0]} duplicates") for kind in ("exact_duplicates", "near_duplicates")]
    yield tiles([*shown, *copies])
    days = list(dict.fromkeys(day for counts in data.by_class.values() for day in counts))
    if data.splits:
        splits = [split for split in ("train", "val", "test") if any(split in counts for counts in data.splits.values())]
        lines = [
            [automatic.day_words(day, _target_day(story)), *(f"{counts.get(split, 0):,}" for split in splits)]
            for day, counts in data.splits.items()
        ]
        yield "<h3 style='margin-top:1.4rem'>Days and splits</h3>" + table(["", *splits], lines)
    lines = [[_name(name), *(f"{counts.get(day, 0):,}" for day in days)] for name, counts in data.by_class.items()]
    yield _listed("Images by class", ["class", *(automatic.day_words(day, _target_day(story)) for day in days)], lines)
    odd = [f"{about['images']:,} {kind.replace('_', ' ')}" for kind, about in report["anomalies"].items() if about["images"]]
    odd += [f"{n:,} with {kind.replace('_', ' ')}" for kind, n in sorted(data.corruption.items())]
    across = report["exact_duplicates"]["across_classes"] + report["near_duplicates"]["across_classes"]
    odd += [f"{many(across, 'group')} of duplicates across classes"] if across else []
    if odd:
        yield f"<p class='note'>Also: {escape(', '.join(odd))}.</p>"
    if data.rejected:
        yield _listed("Rejected files", ["file", "reason"], [[name, reason] for name, reason in data.rejected], total=report["rejected"])


def _labels(story: Story) -> Iterator[str]:
    labels, metrics = story.labels, story.metrics
    if labels is None:
        return
    about = labels.about
    yield "<h2>Labels</h2>"
    how = f"{about.get('method', '')}, {about['tier']}" if "tier" in about else "The given labels pass through."
    yield f"<p class='note'>{escape(how)}</p>"
    cards = []
    if labels.histogram:
        colours = ("--blue", "--accent") if len(labels.histogram) > 1 else ("--blue",)
        stacks = [(name, counts, colour) for (name, counts), colour in zip(labels.histogram, colours, strict=True)]
        drawn = svg.histogram(stacks, mark=about.get("cutoff_value"), title="labels by P(wrong)")
        cards.append(_card("P(given label is wrong)", drawn))
    found = [
        Bar(name, metrics[f"bayes_cutoff/{name}"]) for name in ("precision", "recall", "f1", "auroc") if f"bayes_cutoff/{name}" in metrics
    ]
    if found:
        cards.append(_card("How well wrong labels were found", svg.bars(found, title="detection of wrong labels")))
    if cards:
        yield f"<div class='cards'>{''.join(cards)}</div>"
    if about.get("noise_matrix"):
        drawn = svg.matrix(about["noise_matrix"], about["classes"], rows="true", columns="given", shares=True)
        yield f"<figure><div class='wide'>{drawn}</div><figcaption>Estimated noise: P(given | true), in %</figcaption></figure>"
    if labels.suspects:
        yield _gallery(f"Most suspect labels, {len(labels.suspects)} of {labels.n_above:,} doubted", labels.suspects)
    headings = ["given label", "labels", "doubted", *(["right ones doubted"] if any(row[3] is not None for row in labels.by_class) else [])]
    lines = [[_name(name), *(f"{n:,}" for n in counts if n is not None)] for name, *counts in labels.by_class]
    yield _listed("Labels by class", headings, lines)
    yield glossary()
    if labels.users is not None:
        rows = [[_number(value) for value in row] for row in labels.users.itertuples(index=False)]
        yield _listed("Users", [str(name).replace("_", " ") for name in labels.users], rows)


def _training(story: Story) -> str:
    history = story.history
    if history is None or not len(history):
        return ""
    best = int(history["val_loss"].to_numpy().argmin()) + 1 if "val_loss" in history else None
    loss = [Curve("training", history["train_loss"].tolist(), "--accent")]
    if "val_loss" in history:
        loss.append(Curve("validation", history["val_loss"].tolist(), "--blue"))
    by = "penalty" if "strength" in history else "epoch"
    cards = [_card("Loss", svg.curves(loss, title=f"loss by {by}", best=best, unit=by))]
    if "val_accuracy" in history:
        drawn = [Curve("validation", history["val_accuracy"].tolist(), "--blue")]
        title = f"validation accuracy by {by}"
        cards.append(_card("Accuracy", svg.curves(drawn, title=title, best=best, from_zero=False, unit=by)))
    if "strength" in history:
        strengths = ", ".join(f"{strength:g}" for strength in history["strength"])
        said = f"The head is a logistic regression on the features of the frozen backbone; penalties tried: {strengths}"
        said += f"; number {best} had the least validation loss, and all images were fitted with it" if best else ""
    else:
        said = many(len(history), "epoch") + (f"; the weights are those of epoch {best}, with the least validation loss" if best else "")
    return f"<h2>Training</h2><p class='note'>{said}.</p><div class='cards'>{''.join(cards)}</div>"


def _evaluation(story: Story) -> Iterator[str]:
    evaluation = story.evaluation
    if evaluation is None:
        return
    yield "<h2>Evaluation</h2>"
    if not evaluation.verified:
        yield "<p class='note'>verified=false: some labels measured against are the given ones, which nobody has checked.</p>"
    others = [one for one in evaluation.figures if one.metric != "accuracy" or one.part not in ("all", "monday", "tuesday")]
    if others:
        lines = [[one.metric, one.part, _with_interval(one) if 0 <= one.value <= 1 else f"{one.value:.4g}", f"{one.n:,}"] for one in others]
        yield _listed("All figures", ["metric", "of", "value, %", "images"], lines)
    drawn = svg.matrix(evaluation.confusion.tolist(), evaluation.classes, rows="label", columns="predicted", shares=False)
    yield f"<figure><div class='wide'>{drawn}</div><figcaption>Confusion matrix, images</figcaption></figure>"
    if evaluation.confused:
        lines = [[_name(label), _name(predicted), f"{n:,}"] for label, predicted, n in evaluation.confused]
        yield _listed("Most confused", ["label", "taken for", "images"], lines)
    if evaluation.errors:
        yield _gallery(f"Surest errors, {len(evaluation.errors)} of {evaluation.n_errors:,}", evaluation.errors)
    headings = [str(name) for name in evaluation.per_class if name != "verified"]
    rows = evaluation.per_class[headings].itertuples(index=False)
    shares = {"precision", "recall", "f1"}
    lines = [
        [f"{percent(float(value))}%" if name in shares else _name(str(value)) for name, value in zip(headings, row, strict=True)]
        for row in rows
    ]
    yield _listed("Figures by class", ["class", *headings[1:]], lines)


def _gallery(heading: str, shown: Sequence[Shown]) -> str:
    """Images with what is said of each."""
    items = []
    for one in shown:
        pictures = "".join(f"<img alt='' src='{picture}'>" for picture in (one.picture, one.beside) if picture)
        lines = "<br>".join(escape(shortened(line, 60)) for line in one.lines)
        items.append(f"<div><div class='pair'>{pictures}</div>{lines}<small>{escape(shortened(one.note, 60))}</small></div>")
    note = "<p class='note'>Each beside the trusted image that looks most like it.</p>" if any(one.beside for one in shown) else ""
    if not any(one.picture for one in shown):
        note = "<p class='note'>Without pictures: no pixels are to be seen here.</p>"
    return f"<h3 style='margin-top:1.8rem'>{escape(heading)}</h3>{note}<div class='pictures'>{''.join(items)}</div>"


def _environment(story: Story) -> str:
    about = story.environment
    if not about:
        return ""
    commit = (
        f"{about['commit'][:12]}{', with changes that are not committed' if about['changed'] else ''}" if about["commit"] else "unknown"
    )
    lines = [["commit", commit], ["machine", f"{about['system']}, {many(about['cores'], 'core')}, {about['device']}"]]
    lines += [["Python", about["python"]], *([name, version] for name, version in about["packages"].items())]
    return f"<h2>Environment</h2>{table(['what', 'version'], lines)}"


def _reproduce(story: Story) -> str:
    """The command, and what it changes of the defaults."""
    if not story.command:
        return ""
    commit = story.environment.get("commit", "")
    store = 'export MLFLOW_TRACKING_URI="$(python -m bccp.tracking.store)"'  # else MLflow makes an empty database where it is started
    lines = [*([f"git checkout {commit}"] if commit else []), store, story.command]
    text = f"<h2>How to repeat it</h2><pre><code>{escape(chr(10).join(lines))}</code></pre>"
    if not story.differences:
        return text + "<p class='note'>Every key has its default.</p>"
    rows = [[one.key, _value(one.default), _value(one.value)] for one in story.differences]
    return text + _listed("What differs from the defaults", ["key", "default", "here"], rows)


def _listed(heading: str, headings: Sequence[str], lines: Iterable[Sequence[str]], *, total: int | None = None) -> str:
    """A table under a heading, folded where it is long."""
    rows = list(lines)
    n = total or len(rows)
    more = f", the first {min(len(rows), MOST_LISTED)} of {n:,}" if n > min(len(rows), MOST_LISTED) else ""
    return folded(heading + more, table(headings, rows[:MOST_LISTED]), is_open=len(rows) <= MOST_OPEN)


def _target_day(story: Story) -> str:
    return str((story.config.get("main") or {}).get("target_day") or "tuesday")


def _name(text: str) -> str:
    return shortened(text, 60)


def _value(value: Any) -> str:
    return shortened(config.encode(value), 120)


def _number(value: Any) -> str:
    try:
        number = float(value)
    except ValueError:
        return _name(str(value))
    return f"{number:g}" if number.is_integer() else f"{number:.3f}"


def _whole(section: Callable[[Story], str]) -> PageSection:
    """A section that is made in one piece."""
    return lambda story: [section(story)]


PageSection = Callable[[Story], Iterable[str]]

PAGE_SECTIONS: dict[str, PageSection] = {
    "trouble": _whole(_trouble),
    "simulation": _whole(_simulation),
    "sentence": _whole(_sentence),
    "tiles": _whole(_tiles),
    "flow": _whole(_flow),
    "cards": _whole(_cards),
    "data": _data,
    "labels": _labels,
    "training": _whole(_training),
    "evaluation": _evaluation,
    "environment": _whole(_environment),
    "reproduce": _whole(_reproduce),
}
"""The parts of the page in order, each made from the story to HTML, or to nothing where there is nothing to show."""
