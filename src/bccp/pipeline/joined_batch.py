"""What becomes of known images and of an accepted batch when they are joined: days, names and labels, and the options that use them.

A label is trusted, and its image Monday's, only where the reference's run trusted it. All others stay doubtful: they are Tuesday's, or,
where nothing was trusted, reference and batch are one folder without days. What users said of images, and what a person has checked of
their labels, goes along under the images' new names.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from bccp.core import provenance
from bccp.core.errors import BCCPError
from bccp.data import label_files, layout, tables
from bccp.labels import feedback
from bccp.labels.expert_labels import OF_NO_CLASS, UNKNOWN
from bccp.tracking.finished_runs import Pipeline
from bccp.tracking.store import Ledger
from bccp.tracking.versions import qualified

FEEDBACK, AUDIT = "feedback.csv", "audit.csv"
"""Of an accepted batch's folder: votes and checked labels of its images and the reference's."""

_CARRIED = ("main", "preprocessing", "segregation", "bayes_cutoff", "cp_sampling", "train", "test", "tracking")
"""Sections of the reference's configuration that hold for the joined images too; where they come from, and their labels, do not."""

_LEFT_BEHIND = frozenset(
    {
        "main.execute_steps", "main.target_day", "main.env_manager", "main.cache", "main.threads",
        "segregation.target_day", "segregation.label", "segregation.label_source", "segregation.feedback_file",
        "segregation.corruption", "segregation.split_file",
        "bayes_cutoff.audit_file", "bayes_cutoff.label", "bayes_cutoff.target_day", "cp_sampling.target_day", "train.target_day",
        "tracking.mlflow_uri", "tracking.shared_folder", "test.register_simulated", "test.audit_file",
    }
)  # fmt: skip
"""Keys that say how that run was run, whose labels those were, or what names files by their old names."""


@dataclass(frozen=True)
class KnownLabels:
    """Known labels of a reference.

    Attributes
    ----------
    images : DataFrame
        ``image, label, day, trusted``: every image that was read, its folder's label, which may be empty, the day of its top folder or an
        empty string, and whether its label was trusted.
    votes : DataFrame
        ``image, label, user``: what users said, as far as that is what images were judged by.
    audits : DataFrame
        ``image, label, chosen``: what a person has checked; with a column ``verdict`` where images of no class are among them.
    settings : dict of str to str
        The text of each key of the run's configuration.
    """

    images: pd.DataFrame
    votes: pd.DataFrame
    audits: pd.DataFrame
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Join:
    """Plan of how reference and batch are joined.

    Attributes
    ----------
    reference, batch : dict of str to str
        The new name of each image by its name in its own archive.
    has_days : bool
        Whether there is a Monday.
    source : {"folder", "file"}
        Where the doubtful labels come from.
    votes, audits : DataFrame
        As for :class:`KnownLabels`, by new names.
    unlabelled : list of str
        New names of the batch's images that have no label yet.
    """

    reference: Mapping[str, str]
    batch: Mapping[str, str]
    has_days: bool
    source: str
    votes: pd.DataFrame
    audits: pd.DataFrame
    unlabelled: list[str]


def no_votes() -> pd.DataFrame:
    """Return a table of votes without rows."""
    return pd.DataFrame(columns=["image", "label", "user"], dtype=str)


def no_audits() -> pd.DataFrame:
    """Return a table of checked labels without rows."""
    return pd.DataFrame(columns=["image", "label", "chosen"], dtype=str)


def labels_of_run(pipeline: Pipeline, ledger: Ledger) -> KnownLabels:
    """Read what a finished pipeline knew of its images' labels.

    Its folders' names are trusted where they were the truth that labels were drawn from, on a Monday that the data brings, and where a
    feedback file left images to Monday. Where the folders' names were themselves the doubtful labels, or all images were Monday and
    doubtful, none is, whichever half of them that run called Monday.
    """
    places = {name: ledger.fetch(qualified(name, version)) for name, version in pipeline.versions.items() if name in _READ}
    manifest = tables.read(places["clean_data"] / "manifest.csv")[["image", "label", "day"]]
    source = _source(places, pipeline.config)
    votes, named = no_votes(), set[str]()
    if source == "file" and "feedback" in places:
        votes = tables.read(places["feedback"] / "votes.csv")[["image", "label", "user"]]
        named = set(json.loads((places["feedback"] / "feedback.json").read_text(encoding="utf-8"))["named"])
    on_monday = manifest["day"] == "monday"
    if "segregated_data" not in places:
        trusted = pd.Series(False, index=manifest.index)
    elif source in ("simulated", "ground_truth"):
        trusted = manifest["day"] != "tuesday" if on_monday.any() else pd.Series(True, index=manifest.index)
    elif _target_day(places["segregated_data"], pipeline.config) == "monday":
        trusted = pd.Series(False, index=manifest.index)
    elif source == "file" and not (manifest["day"] != "").any():
        trusted = ~manifest["image"].isin(named)
    else:
        trusted = on_monday
    images = manifest.assign(trusted=trusted & (manifest["label"] != ""))
    return KnownLabels(images, votes, audits_of(places.get("cleansed_labels")), pipeline.config | pipeline.tracking)


_READ = ("clean_data", "segregated_data", "feedback", "given_labels", "cleansed_labels")


def _source(places: Mapping[str, Path], settings: Mapping[str, str]) -> str:
    """Find the source of a run's doubtful labels: as recorded with the labels, or else by the configuration."""
    if "given_labels" in places:
        return label_files.given_source(places["given_labels"])
    if settings.get("noisy_labels.label") == "ground_truth":
        return "ground_truth"
    return settings.get("noisy_labels.source", "folder")


def _target_day(segregated: Path, settings: Mapping[str, str]) -> str:
    about = json.loads((segregated / "clean_data.json").read_text(encoding="utf-8"))
    return str(about.get("target_day", settings.get("main.target_day", "monday")))


def audits_of(cleansed: Path | None) -> pd.DataFrame:
    """Labels that a person has checked, as the report of a run keeps them."""
    path = cleansed / "label_report.csv" if cleansed else None
    if path is None or not path.exists():
        return no_audits()
    report = tables.read(path)
    if "verdict" not in report:  # only where an image is of no class
        report = report[report["label"] != ""]
        return report.assign(chosen=report.get("chosen", ""))[["image", "label", "chosen"]]
    return report.loc[(report["label"] != "") | (report["verdict"] == OF_NO_CLASS), ["image", "label", "chosen", "verdict"]]


def labels_of_images(clean: Path) -> KnownLabels:
    """Read the labels of images that no finished run has judged: nothing is trusted."""
    manifest = tables.read(clean / "manifest.csv")[["image", "label", "day"]]
    return KnownLabels(manifest.assign(trusted=False), no_votes(), no_audits())


def labels_of_batch(folder: Path, names: Iterable[str], settings: Mapping[str, str]) -> KnownLabels:
    """Read what is known of the images of an accepted batch on which nothing has been trained yet.

    Parameters
    ----------
    folder : Path
        Its folder.
    names : iterable of str
        Of its joined images.
    settings : mapping of str to str
        Of the run that it was checked against.
    """
    ids = list(names)
    found = layout.recognize(ids)
    rows = [(name, place.label, place.day, place.day == "monday") for name in ids if (place := found.place(name))]
    images = pd.DataFrame(rows, columns=["image", "label", "day", "trusted"])
    audits = tables.read(folder / AUDIT) if (folder / AUDIT).exists() else no_audits()
    return KnownLabels(images, _votes_of(folder / FEEDBACK, set(images["image"])), audits, settings)


def _votes_of(path: Path, names: set[str]) -> pd.DataFrame:
    """Rows of a feedback file that people may have added to; which of them count is for the run to say."""
    if not path.exists():
        return no_votes()
    rows = [row for row in feedback.read_feedback(path).rows if not row.problem]
    known = layout.KnownNames(names)
    said = [(known.find(row.image) or row.image, row.label, row.user) for row in rows]
    return pd.DataFrame(said, columns=["image", "label", "user"], dtype=str)


def join(known: KnownLabels | None, batch_images: pd.DataFrame, *, batch: str) -> Join:
    """Give the images of a reference and of a batch their places.

    Parameters
    ----------
    known : KnownLabels or None
        None: there is no reference.
    batch_images : DataFrame
        ``image, label`` of the batch; names begin with ``tuesday/``, labels may be empty.
    batch : str
        The batch's id, by which names that are taken already are told apart.

    Returns
    -------
    Join

    Raises
    ------
    BCCPError
        If the batch has images without a label, and there are no days to put them under.
    """
    reference = pd.DataFrame(columns=["image", "label", "day", "trusted"]) if known is None else known.images
    votes = no_votes() if known is None else known.votes
    has_days = bool(reference["trusted"].any())
    unlabelled = batch_images.loc[batch_images["label"] == "", "image"].tolist()
    # labels that no folder tells came from a table: they become votes, beside images that all lie in no folder
    flat = not has_days and bool(((reference["label"] != "") & ~reference["image"].str.contains("/")).any())
    if unlabelled and not has_days and not flat and known is not None:
        example = unlabelled[0].partition("/")[2]
        raise BCCPError(
            f"{len(unlabelled)} images of the batch {batch} have no label (such as {example!r}), and the reference trusted none itself: "
            "put them into class folders, whose names may be wrong, and check them again"
        )
    source = "file" if unlabelled or len(votes) or flat else "folder"
    # under a feedback file the folders of Tuesday are the truth: doubtful names become votes, and their images lie in no class folder
    loose = has_days and source == "file"
    spoken_for = set(votes["image"])
    taken: set[str] = set()
    placed: dict[str, str] = {}
    added: list[tuple[str, str, str]] = []
    for image, label, day, trusted in reference[["image", "label", "day", "trusted"]].itertuples(index=False):
        bare = image.partition("/")[2] if day else image
        if not has_days:
            wanted = PurePosixPath(bare).name if flat else bare
        elif trusted:
            wanted = f"monday/{bare}"
        elif loose and label and image not in spoken_for:
            wanted = f"tuesday/{PurePosixPath(bare).name}"
        else:
            wanted = f"tuesday/{bare}"
        placed[image] = _free(wanted, image, taken)
        if (loose and not trusted) or (source == "file" and not has_days):
            added += [(placed[image], label, "")] if label and image not in spoken_for else []
    arrived: dict[str, str] = {}
    for image, label in batch_images[["image", "label"]].itertuples(index=False):
        bare = image.partition("/")[2]
        plain = PurePosixPath(bare).name if flat or (loose and label) else bare
        wanted = f"tuesday/{plain}" if has_days else plain
        path = PurePosixPath(wanted)
        arrived[image] = _free(str(path.with_name(f"{path.stem}-{batch}{path.suffix}")) if wanted in taken else wanted, image, taken)
        added += [(arrived[image], label, "")] if source == "file" and label else []
    known_votes = votes[votes["image"].isin(placed.keys())]
    said = pd.concat([known_votes.assign(image=known_votes["image"].map(placed)), pd.DataFrame(added, columns=["image", "label", "user"])])
    audits = no_audits() if known is None else known.audits[known.audits["image"].isin(placed.keys())]
    return Join(
        placed,
        arrived,
        has_days,
        source,
        said.sort_values(["image", "user"], ignore_index=True),
        audits.assign(image=audits["image"].map(placed)).sort_values("image", ignore_index=True),
        sorted(arrived[image] for image in unlabelled),
    )


def _free(wanted: str, image: str, taken: set[str]) -> str:
    """A name that no other image has; of those that would share one, each but the first gets a suffix made of its old name."""
    path = PurePosixPath(wanted)
    digest = hashlib.sha256(image.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    name = str(path.with_name(f"{path.stem}-{digest}{path.suffix}")) if wanted in taken else wanted
    taken.add(name)
    return name


def options(place: Path, joined: Join, settings: Mapping[str, str], *, size: tuple[Any, str] | None) -> list[str]:
    """The overrides under which the joined images are trained on as the reference's were.

    Parameters
    ----------
    place : Path
        The batch's folder.
    joined : Join
    settings : mapping of str to str
        Of the reference's run.
    size : tuple of int and str, optional
        ``preprocessing.image_size`` and ``.resize`` of the reference.

    Returns
    -------
    list of str
        Each as a shell takes it.
    """
    fresh: list[tuple[str, Any]] = [("data.source", "archive"), ("data.path", str(place / "data.zip"))]
    fresh += [("main.target_day", "tuesday" if joined.has_days else "monday"), ("noisy_labels.source", joined.source)]
    if joined.source == "file":
        fresh.append(("noisy_labels.feedback_file", str(place / FEEDBACK) if len(joined.votes) else FEEDBACK))
    if len(joined.audits):
        fresh.append(("bayes_cutoff.audit_file", str(place / AUDIT)))
    config = _nested(settings)
    if size is not None:
        config.setdefault("preprocessing", {}).update(image_size=size[0], resize=size[1])
    kept = {name: values for name, values in config.items() if name in _CARRIED and isinstance(values, Mapping)}
    carried = [(one.key, one.value) for one in provenance.differences(kept) if one.key not in _LEFT_BEHIND]
    return [shlex.quote(provenance.override(key, value)) for key, value in [*fresh, *carried]]


def _nested(settings: Mapping[str, str]) -> dict[str, Any]:
    """A configuration by section from the texts of its keys."""
    nested: dict[str, Any] = {}
    for key, text in settings.items():
        *sections, name = key.split(".")
        place = nested
        for section in sections:
            place = place.setdefault(section, {})
        try:
            place[name] = json.loads(text)
        except ValueError:
            place[name] = text
    return nested


def lines(place: Path, joined: Join, known: KnownLabels | None) -> list[str]:
    """Describe for the user how reference and batch were joined."""
    said = []
    if known is None:
        said.append("there was nothing to compare it with: it is a data set of its own, and its labels are doubtful")
    elif joined.has_days:
        trusted = int(known.images["trusted"].sum())
        rest = len(known.images) - trusted
        doubtful = f", its {rest} others, whose labels are doubtful, and the batch Tuesday's" if rest else ", the batch Tuesday's"
        said.append(f"the {trusted} images whose labels the reference trusted are Monday's{doubtful}")
    else:
        said.append("the reference trusted no label: it and the batch are one folder without days, with the labels as they were given")
    if len(joined.audits):
        said.append(f"{len(joined.audits)} checked labels go along: {place / AUDIT}")
    if joined.source == "folder":
        said.append("its folders are labels that may be wrong")
    elif len(joined.votes):
        said.append(f"the labels that {joined.votes['image'].nunique()} images were given are kept: {place / FEEDBACK}")
    if joined.unlabelled:
        named = "tuesday/<file>" if joined.has_days else "<file>"
        columns = f"image,label[,user] and images named {named}"
        n_images = f"{len(joined.unlabelled)} images such as {joined.unlabelled[0]} have no label"
        if len(joined.votes):
            said.append(f"{n_images} yet: add lines {columns} to {place / FEEDBACK}, or they are left out")
        else:
            said.append(f"its labels are to come from {FEEDBACK}, with the columns {columns}: {n_images}")
    return said


def write(place: Path, joined: Join) -> None:
    """Write votes and checked labels beside the joined images, where there are any."""
    if len(joined.votes):
        has_users = bool((joined.votes["user"] != "").any())
        tables.write(joined.votes if has_users else joined.votes[["image", "label"]], place / FEEDBACK)
    if len(joined.audits):
        tables.write(joined.audits.assign(chosen=joined.audits["chosen"].replace("", UNKNOWN)), place / AUDIT)
