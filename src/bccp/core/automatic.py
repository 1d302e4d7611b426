"""Values of the configuration that depend on each other or on the data: what ``auto`` means, and whether anything is simulated.

Labels are simulated, and images corrupted, on the built-in digits; on anybody's own data only where ``noisy_labels.source=simulated`` asks
for it. ``auto`` is resolved in two steps: what the configuration alone decides when it is loaded (:func:`resolve_sources`), and what the
days of the data (:func:`resolve_days`) and the sizes of its images (:mod:`bccp.core.automatic_models`) decide once it has been fetched. No
key, record or step sees an ``auto`` of these options.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bccp.core import automatic_models
from bccp.core.config_schema import NOISE, USER_ACCURACY
from bccp.core.errors import BCCPError

if TYPE_CHECKING:
    from bccp.core.config_schema import Config, NoisyLabels, Segregation

DAY_SECTIONS = ("main", "segregation", "bayes_cutoff", "cp_sampling", "train")
"""The sections with a ``target_day``."""

BUILT_IN = "digits"
"""The value of ``data.source`` for the images that come with scikit-learn."""


def label_source(source: str, feedback_file: str | None, *, built_in: bool) -> str:
    """Resolve ``noisy_labels.source``.

    Parameters
    ----------
    source : {"auto", "simulated", "file", "folder"}
    feedback_file : str or None
    built_in : bool
        The data is the built-in digits, and not a user's own. False for a step that is run alone.

    Returns
    -------
    {"simulated", "file", "folder"}

    Examples
    --------
    >>> label_source("auto", None, built_in=True), label_source("auto", None, built_in=False), label_source("auto", "f.csv", built_in=False)
    ('simulated', 'folder', 'file')
    """
    if source != "auto":
        return source
    return "file" if feedback_file else "simulated" if built_in else "folder"


def resolve_sources(config: Config) -> None:
    """Replace each ``auto`` that the configuration alone decides, in place.

    ``noisy_labels.source`` is resolved always; the target day and the corruption where the days of the data do not matter, and the models
    and the images' size where its images do not, or are the built-in ones.

    Raises
    ------
    BCCPError
        From :func:`bccp.core.automatic_models.resolve`.
    """
    built_in = config.data.source == BUILT_IN
    resolve_labels(config.noisy_labels, built_in=built_in)
    resolve_labels_of_days(config.segregation, built_in=built_in)
    config.preprocessing.label_source = config.noisy_labels.source
    day, corruption = _implied_by_source(config.noisy_labels.source, built_in=built_in)
    if day:
        set_target_day(config, day)
    if corruption and config.segregation.corruption == "auto":
        config.segregation.corruption = corruption
    automatic_models.resolve(config, automatic_models.BUILT_IN_PX if built_in else None)


def _implied_by_source(source: str, *, built_in: bool) -> tuple[str | None, str | None]:
    """The target day and the corruption that ``auto`` stands for under a source of labels; None where the days of the data decide."""
    simulated = source == "simulated"
    return "tuesday" if simulated or built_in else None, None if simulated and not built_in else "mixed" if simulated else "none"


def resolve_labels(section: NoisyLabels, *, built_in: bool = False) -> None:
    """Resolve the section ``noisy_labels`` in place; ``built_in`` as for :func:`label_source`."""
    section.source = label_source(section.source, section.feedback_file, built_in=built_in)
    section.check()


def resolve_labels_of_days(section: Segregation, *, built_in: bool = False) -> None:
    """Resolve the source of the labels in the section ``segregation`` in place; ``built_in`` as for :func:`label_source`."""
    section.label_source = label_source(section.label_source, section.feedback_file, built_in=built_in)


def folders_are_truth(section: Segregation) -> bool:
    """Return False where the folders' names may be wrong, under a resolved section ``segregation``.

    They are the labels to be judged, or every image is judged by the answers in a feedback file, and no day is trusted.
    """
    judged_whole = section.label_source == "file" and section.target_day == "monday"
    return section.label == "ground_truth" or not (section.label_source == "folder" or judged_whole)


def set_target_day(config: Config, day: str) -> None:
    """Replace each ``target_day`` that is ``auto``, in place."""
    for name in DAY_SECTIONS:
        section = getattr(config, name)
        if section.target_day == "auto":
            section.target_day = day


def resolve_days(config: Config, *, has_days: bool, rest_is_trusted: bool) -> None:
    """Replace each ``auto`` that the days of the data decide, in place.

    Parameters
    ----------
    config : Config
    has_days : bool
        The data has folders ``monday`` and ``tuesday``.
    rest_is_trusted : bool
        There is a feedback file, and it leaves images in class folders unnamed.

    Raises
    ------
    BCCPError
        If Tuesday is to be cut from class folders whose names are doubtful: the other half would be trusted.
    """
    set_target_day(config, "tuesday" if has_days or rest_is_trusted else "monday")
    automatic_models.resolve_judge(config.bayes_cutoff)
    if config.segregation.corruption == "auto":
        config.segregation.corruption = "none" if has_days else "mixed"
    if config.segregation.target_day == "tuesday" and not folders_are_truth(config.segregation) and not has_days:
        raise BCCPError(untrusted_rest(config.main.target_day))


def untrusted_rest(target_day: str) -> str:
    """The sentence that refuses a Tuesday cut from class folders whose names are doubtful."""
    return (
        f"main.target_day={target_day} with noisy_labels.source=folder needs the folders monday/<class>/ (trusted) and tuesday/<class>/ "
        "(doubtful), and the data has class folders only, half of which would be trusted: set main.target_day=monday, for which nothing is "
        "trusted, or make the two folders"
    )


def waiting_for_days(config: Config) -> set[str]:
    """The keys that :func:`resolve_days` has yet to resolve, such as ``main.target_day``."""
    found = {f"{name}.target_day" for name in DAY_SECTIONS if getattr(config, name).target_day == "auto"}
    return found | ({"segregation.corruption"} if config.segregation.corruption == "auto" else set())


def unresolved(config: Config) -> set[str]:
    """The keys that wait for the data: for its days, for the sizes of its images, or for both."""
    both = {f"bayes_cutoff.{key}" for key in automatic_models.JUDGE_KEYS if getattr(config.bayes_cutoff, key) == "auto"}
    return waiting_for_days(config) | automatic_models.waiting(config) | both


def depends_on_days(config: Config) -> bool:
    """Return True where :func:`resolve_days` has something to resolve or to refuse."""
    section = config.segregation
    return bool(waiting_for_days(config)) or (section.target_day == "tuesday" and not folders_are_truth(section))


def implied(config: Mapping[str, Any]) -> dict[str, Any]:
    """Values that ``auto`` and null stand for under a resolved configuration, whatever the days of the data and the sizes of its images.

    Parameters
    ----------
    config : mapping
        As for :func:`simulated_parts`.

    Returns
    -------
    dict of str to object
        By ``section.key``.
    """
    labels, built_in = config.get("noisy_labels") or {}, not is_own_data(config)
    source = str(labels.get("source"))
    found: dict[str, Any] = {"noisy_labels.source": label_source("auto", labels.get("feedback_file"), built_in=built_in)}
    if source == "simulated":
        found |= {"noisy_labels.user_accuracy": USER_ACCURACY, "noisy_labels.noise": NOISE}
    day, corruption = _implied_by_source(source, built_in=built_in)
    of_days = {"main.target_day": day, "segregation.corruption": corruption}
    found |= {key: value for key, value in of_days.items() if value}
    known = {"built_in": "data" in config and built_in}
    return found | automatic_models.implied_judge(config, **known) | automatic_models.implied(config, **known)


def refuse_idle_simulation(config: Config) -> None:
    """Refuse options of a simulation for a user's own data, none of whose labels are simulated.

    Raises
    ------
    BCCPError
        If ``user_accuracy`` or ``noise`` is given, or a corruption is asked for.
    """
    source = config.noisy_labels.source
    if source == "simulated" or config.data.source == BUILT_IN:
        return
    given = {"noisy_labels.user_accuracy": config.noisy_labels.user_accuracy, "noisy_labels.noise": config.noisy_labels.noise}
    given["segregation.corruption"] = None if config.segregation.corruption in ("auto", "none") else config.segregation.corruption
    for key, value in given.items():
        if value is not None:
            raise BCCPError(
                f"{key}={value} is for simulated labels, and those of your data are not simulated (noisy_labels.source={source}): leave "
                f"{key} out, or set noisy_labels.source=simulated to draw wrong labels on purpose"
            )


def refuse_registration(config: Config) -> None:
    """Refuse to register a model of a user's own data that learnt from simulated labels, unless that is asked for.

    Raises
    ------
    BCCPError
        If ``test.registered_model_name`` is given without ``test.register_simulated=true``.
    """
    name = config.test.registered_model_name
    own_simulated = config.data.source != BUILT_IN and config.noisy_labels.source == "simulated"
    if name and own_simulated and "test" in config.main.execute_steps and not config.test.register_simulated:
        raise BCCPError(registration_refused(name))


def registration_refused(name: str) -> str:
    """The sentence that refuses to register a model of simulated labels."""
    return (
        f"test.registered_model_name={name} would register a model that was trained on labels drawn wrong on purpose "
        "(noisy_labels.source=simulated): leave the simulation out, or set test.register_simulated=true"
    )


def judge_sentence(config: Config) -> str:
    """Say in one sentence what ``bayes_cutoff.judge=auto`` has become; empty where trusted images or the section decide."""
    section = config.bayes_cutoff
    if section.target_day != "monday" or not section.enabled or section.label == "ground_truth":
        return ""
    if section.judge == "network":
        trained = f"{section.model} is trained on {section.folds} held-out folds, and with {section.rounds} round(s) of refinement"
        return f"bayes_cutoff.judge=network: no label is trusted, and {trained}"
    seen = f"the features of {section.model}" if section.freeze_backbone else "the pixels of these small images"
    return (
        f"bayes_cutoff.judge=features: no label is trusted, so {section.folds} held-out folds judge one another by {seen}, and no network "
        "is trained for it (bayes_cutoff.judge=network trains one)"
    )


def target_day_sentence(config: Config) -> str:
    """Say in one sentence what ``main.target_day=auto`` has become, and why."""
    if config.main.target_day == "tuesday":
        why = "a feedback file names some of the images" if config.noisy_labels.source == "file" else "the data has days of its own"
        return f"main.target_day=tuesday: {why}, and Monday's labels are trusted"
    if config.noisy_labels.label == "ground_truth":
        return "main.target_day=monday: the folders' names are taken for the truth, and nothing is judged"
    return "main.target_day=monday: all labels are judged, and none is trusted"


def simulated_parts(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Name what is simulated under a configuration.

    Parameters
    ----------
    config : mapping
        Sections by name, each a mapping, as ``summary.json`` holds them; may lack any.

    Returns
    -------
    tuple of str
        ``labels`` where wrong labels are drawn, ``images`` where Tuesday's are corrupted.
    """
    labels, days = (config.get(name) or {} for name in ("noisy_labels", "segregation"))
    parts = ["labels"] if labels.get("source") == "simulated" and labels.get("label") != "ground_truth" else []
    corruption = days.get("corruption", "none")
    painted = corruption not in ("none", "auto") or (corruption == "auto" and labels.get("source") == "simulated")
    return tuple(parts + (["images"] if painted and days.get("target_day") == "tuesday" else []))


def is_own_data(config: Mapping[str, Any]) -> bool:
    """Return True where the data of a configuration (as for :func:`simulated_parts`) is a user's own."""
    return bool((config.get("data") or {}).get("source", BUILT_IN) != BUILT_IN)


def day_words(day: str, target_day: str) -> str:
    """A day's images as a user knows them, beside the name that options have for the day.

    Examples
    --------
    >>> day_words("monday", "tuesday"), day_words("tuesday", "tuesday"), day_words("monday", "monday")
    ('trusted images (Monday)', 'new images (Tuesday)', 'images')
    """
    if target_day == "monday":  # there is no other day, and nothing is trusted
        return "images"
    return f"{'trusted' if day == 'monday' else 'new'} images ({day.capitalize()})"


def simulation_sentence(config: Mapping[str, Any]) -> str:
    """Say in one sentence what is simulated under a configuration (as for :func:`simulated_parts`); empty where nothing is."""
    parts = simulated_parts(config)
    labels, days = (config.get(name) or {} for name in ("noisy_labels", "segregation"))
    day = str(days.get("target_day", "tuesday")).capitalize()
    said = []
    if "labels" in parts:
        accuracy, noise = labels.get("user_accuracy"), labels.get("noise")
        how = "by a matrix" if isinstance(noise, list) else str(noise)
        share = "" if isinstance(noise, list) or accuracy is None else f"{100 * (1 - float(accuracy)):.3g}% of "
        said.append(f"{share}{day}'s training labels are drawn wrong on purpose ({how}; noisy_labels.source=simulated)")
    if "images" in parts:
        said.append(f"Tuesday's images are corrupted on purpose (segregation.corruption={days.get('corruption')})")
    return f"simulated: {', and '.join(said)}" if said else ""
