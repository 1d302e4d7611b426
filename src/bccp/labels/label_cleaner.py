"""Finds wrong labels in arrays, in scikit-learn's manner and without the pipeline.

N images, K classes. What a model that never saw the labels says of the images goes in together with the given labels; the
probability that each label is wrong, the noise matrix, the cut-off and the cleaned labels come out.

    from bccp.labels.label_cleaner import LabelCleaner

    cleaner = LabelCleaner(action="relabel", classes=model.classes_).fit(probs, given_labels)
    cleaner.is_wrong_, cleaner.p_wrong_, cleaner.labels_, cleaner.posterior_

Where there is no such model, features of the images will do, such as embeddings of a pretrained network; judges of their own are then
fitted to the labels of other images.

    cleaner = LabelCleaner(action="relabel", cutoff=0.8).fit_features(embeddings, given_labels)
"""

from __future__ import annotations

import dataclasses
import hashlib
import warnings
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator

from bccp.data.array_types import Float, Index, Mask
from bccp.data.duplicates import assign_folds, duplicate_groups
from bccp.labels import bayes_cutoff, calibration, expert_labels, posterior, untrusted_audit
from bccp.labels.untrusted_judge import UntrustedJudgement, judge_untrusted
from bccp.models.logistic_regression import fit_scaling

ACTIONS = ("soft", "relabel", "drop")

FOLDS = 5
"""Held-out folds of :meth:`LabelCleaner.fit_features`, where there are as many different images."""

SUM_TOLERANCE = 1e-3
"""By how much a row of probabilities may miss 1, for those that were stored in half precision."""


class LabelCleaner(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Finds wrong labels and repairs them.

    Parameters
    ----------
    action : {"soft", "relabel", "drop"}
        What becomes of the labels, in ``labels_``. ``soft``: each is the likeliest class (train on ``posterior_``). ``relabel``: one above
        the cut-off gives way to the likeliest class if that has at least half of the probability, and is dropped otherwise. ``drop``: those
        above the cut-off are dropped. Checked labels replace given ones in each case.
    cutoff : "auto" or float
        P(wrong) above which a label counts as wrong, in [0, 1]. ``auto``: the highest expected F1.
    trusted : bool
        Whether ``probs`` come from a model that was fitted to other images, with trusted labels. False: from cross-validation on these
        images and their doubtful labels, each image's row by a model that saw neither it nor a duplicate of it. This parameter and the next
        two are of :meth:`fit` alone.
    max_temperature : float or None
        The greatest temperature of ``probs`` that the given labels may ask for, above 0. 1 takes ``probs`` for calibrated or too modest, as
        a mean over dropout masks is; for an overconfident model it is the temperature that fits trusted held-out images. None: any; then
        no label is taken for a guess, and users who err as the model does hide.
    max_class_ratio : float or None
        The guardrail: no class may lose more than this times the overall share of its probably right labels, as long as that costs at
        most a point of expected F1. At least 1; None: no guardrail.
    classes : sequence or None
        The labels that the columns of ``probs`` stand for, in their order; of a scikit-learn model, ``model.classes_``. None: the names of
        the columns where ``probs`` is a table whose column names are labels; else the sorted labels among the given and checked ones if
        they are numbers, as many as there are columns. Text in arrays is refused without ``classes``: its alphabetical order need not be
        the model's.

    Attributes
    ----------
    classes_ : ndarray, shape (K,)
    temperature_ : float
        Of ``probs``, chosen by the given labels.
    class_offsets_ : ndarray of float64, shape (K,)
        Of log ``probs`` at the temperature, chosen by the given labels: how much more frequent each class is than ``probs`` say.
    noise_matrix_ : ndarray of float64, shape (K, K)
        P(given = k | true = j) of the labels that are no guess; rows sum to 1. Without regard to checked labels.
    guess_share_ : float
        The share of labels that are guesses: what weaker eyes than the model's say of the image (:mod:`bccp.labels.posterior`).
    posterior_ : ndarray of float64, shape (N, K)
        P(true = j | image, given label); rows sum to 1.
    p_wrong_ : ndarray of float64, shape (N,)
        P(given label wrong), in [0, 1].
    cutoff_ : float
    is_wrong_ : ndarray of bool, shape (N,)
        Whether ``p_wrong_`` is strictly above the cut-off and the guardrail lets it be.
    labels_ : ndarray, shape (N,)
        The final labels; as given where the image is dropped.
    kept_ : ndarray of bool, shape (N,)
        Whether the image is not dropped.
    estimated_accuracy_ : float
        The share of right labels among the given ones.
    estimated_accuracy_at_most_ : bool
        Whether it is an upper bound: labels were checked, but none at some scores, where ``p_wrong_`` is what it is without checked ones;
        after :meth:`fit_features` also where none were checked.
    n_features_in_ : int
        Columns of ``probs``, or of the features.
    probs_ : ndarray of float64, shape (N, K)
        p(class | image) by judges that saw neither the image nor a copy of it; rows sum to 1. This and the following come from
        :meth:`fit_features` alone, ``class_offsets_`` and ``guess_share_`` from :meth:`fit` alone.
    verdict_ : {"found", "nothing", "blind"}
        ``nothing``: less than 1% of the labels seem wrong, so that none stands out. ``blind``: the features do not tell the classes apart,
        and no figure means anything. In both cases no label counts as wrong but checked ones, and ``posterior_`` holds the given labels.
    at_least_ : float
        The share of wrong labels that can be told from errors of the judges, 1 - ``estimated_accuracy_``; 0 where these are blind.
    at_most_ : float or None
        The share of labels that the judges disagree with. None: checked labels tell of all scores, and ``at_least_`` is an estimate; or the
        judges are blind.

    Notes
    -----
    Probabilities from a model that was fitted to the very labels it judges find nothing: it agrees with them.

    Time grows as N·K + K² (a round of EM; some hundred rounds are usual, more where K is large and p vague), with N·log N for sorting.
    Memory beyond the arguments grows as 8·N·K bytes, five to seven such tables at the highest point and one that stays, and as 8·K² bytes,
    about a dozen matrices. ``python -m benchmarks.label_cleaner`` measures both.

    Examples
    --------
    >>> import numpy as np
    >>> probs = np.repeat(np.eye(3) * 0.88 + 0.04, 10, axis=0)
    >>> given = np.repeat(["ant", "bee", "cat"], 10)
    >>> given[0] = "cat"
    >>> cleaner = LabelCleaner(action="relabel", classes=["ant", "bee", "cat"]).fit(probs, given)
    >>> np.flatnonzero(cleaner.is_wrong_).tolist(), str(cleaner.labels_[0])
    ([0], 'ant')
    """

    classes_: npt.NDArray[Any]
    temperature_: float
    class_offsets_: Float
    noise_matrix_: Float
    guess_share_: float
    posterior_: Float
    p_wrong_: Float
    cutoff_: float
    is_wrong_: Mask
    labels_: npt.NDArray[Any]
    kept_: Mask
    estimated_accuracy_: float
    estimated_accuracy_at_most_: bool
    n_features_in_: int
    probs_: Float
    verdict_: str
    at_least_: float
    at_most_: float | None

    def __init__(
        self,
        *,
        action: str = "soft",
        cutoff: str | float = "auto",
        trusted: bool = True,
        max_temperature: float | None = 1.0,
        max_class_ratio: float | None = 1.5,
        classes: npt.ArrayLike | None = None,
    ) -> None:
        self.action = action
        self.cutoff = cutoff
        self.trusted = trusted
        self.max_temperature = max_temperature
        self.max_class_ratio = max_class_ratio
        self.classes = classes

    def fit(
        self,
        probs: npt.ArrayLike,
        given_labels: npt.ArrayLike,
        *,
        audited: Mapping[int, Any] | None = None,
        chosen: Mapping[int, str] | str | None = None,
    ) -> Self:
        """Judge the given labels.

        Parameters
        ----------
        probs : array-like or DataFrame, shape (N, K)
            p(class | image), not negative; rows sum to 1; N at least 1, K at least 2. Column names of a table must be labels, unless they
            are its row of numbers 0 to K - 1 or ``classes`` is given.
        given_labels : array-like of str or int, shape (N,)
            In the order of the rows of ``probs``; where both are pandas objects, with the same index.
        audited : mapping of int to label, optional
            Labels that an expert has checked, by position (0 to N - 1), None for an image of none of the classes: they are taken as true
            and calibrate P(wrong) of the others (:func:`bccp.labels.expert_labels.calibrate`).
        chosen : {"suspect", "random"} or mapping of int to these, optional
            How the checked images were chosen, all of them or by position: by their score, as the worst are, or at random. None, and
            positions that are left out: unknown, which counts as ``suspect``. At least 10 drawn at random tell of all scores.

        Returns
        -------
        LabelCleaner
            Itself.

        Raises
        ------
        ValueError
            For parameters or arrays that cannot be used.

        Warns
        -----
        UserWarning
            If the estimated accuracy is below chance, 1 / K: the columns of ``probs`` may stand for other classes than assumed.
        """
        self._check_parameters()
        _check_indexes({"probs": probs, "given_labels": given_labels}, audited)
        table = _probabilities(probs)
        names = _one_dimensional(given_labels, "given_labels")
        if len(names) != len(table):
            raise ValueError(f"given_labels has {len(names)} labels, probs has {len(table)} rows: one label a row is accepted")
        places, truth_names, of_a_class = _audited({} if audited is None else audited, len(table))
        at_random = _drawn_at_random(chosen, places)
        classes = _classes(self.classes, _column_names(probs), names, truth_names, table.shape[1])
        given, truth = _positions(names, classes, "given_labels"), _checked_positions(truth_names, of_a_class, classes)

        pure = table if self.trusted else posterior.without_noise(table, given)
        most = self.max_temperature
        judgement = calibration.judge_by_trusted_model(pure, given, start=min(1.0, most or 1.0), most=most)
        self._forget()
        believed, self.estimated_accuracy_at_most_ = judgement.fit.posterior, False
        if len(places):
            found = expert_labels.calibrate(judgement.probs, believed, given, places, truth, at_random=at_random)
            believed, self.estimated_accuracy_at_most_ = found.posterior, found.at_least
        self.classes_, self.n_features_in_ = classes, table.shape[1]
        self.temperature_, self.class_offsets_, self.posterior_ = judgement.temperature, judgement.offsets, believed
        self.noise_matrix_, self.guess_share_ = judgement.fit.noise_matrix, judgement.fit.guess_share
        self.p_wrong_ = bayes_cutoff.probability_wrong(believed, given)
        self.estimated_accuracy_ = 1 - float(np.sort(self.p_wrong_).sum()) / len(given)
        self._set_cutoff()
        above = self.p_wrong_ > self.cutoff_
        if self.max_class_ratio is not None:
            above = bayes_cutoff.hold_back(self.p_wrong_, given, above, len(classes), max_ratio=self.max_class_ratio).above
        self._decide(given, above, places, truth)
        self._warn()
        return self

    def fit_features(
        self,
        features: npt.ArrayLike | Sequence[npt.ArrayLike],
        given_labels: npt.ArrayLike,
        groups: npt.ArrayLike | None = None,
        *,
        audited: Mapping[int, Any] | None = None,
        chosen: Mapping[int, str] | str | None = None,
    ) -> Self:
        """Judge the given labels by features of the images, with nothing trusted.

        Simple classifiers of several kinds are fitted to the features and given labels of four fifths of the images, and judge the fifth
        that is left out; what they say is weighed against how often they err themselves (:mod:`bccp.labels.untrusted_judge`). No
        probabilities are needed, and no trusted image.

        Parameters
        ----------
        features : array-like or DataFrame, shape (N, D), or list of arrays of such shapes
            Of the images, N at least 2: embeddings of any pretrained network, not fitted to these labels. A list holds several views of the
            same images, such as embeddings of their mirror images; the first is the most important. Their scale does not matter.
        given_labels : array-like of str or int, shape (N,)
            In the order of the rows of ``features``; where both are pandas objects, with the same index. At least two different ones, or
            ``classes`` of the cleaner.
        groups : array-like of str or int, shape (N,), optional
            Images of one group are copies, or nearly so: they are judged by others than themselves. Images whose features are equal are one
            group anyway.
        audited, chosen
            As for :meth:`fit`. Checked labels calibrate P(wrong) of all others (:mod:`bccp.labels.untrusted_audit`).

        Returns
        -------
        LabelCleaner
            Itself. Permuting the images permutes the result and changes nothing else, to the bit.

        Raises
        ------
        ValueError
            For parameters or arrays that cannot be used.
        """
        self._check_parameters()
        views = _views(features)
        named = {
            "features": features[0] if isinstance(features, list | tuple) else features,
            "given_labels": given_labels,
            "groups": groups,
        }
        _check_indexes(named, audited)
        names = _one_dimensional(given_labels, "given_labels")
        copies = np.arange(len(names)) if groups is None else _one_dimensional(groups, "groups")
        for name, values in (("given_labels", names), ("groups", copies)):
            if len(values) != len(views[0]):
                raise ValueError(f"{name} has {len(values)} values, features has {len(views[0])} rows: one value a row is accepted")
        places, truth_names, of_a_class = _audited({} if audited is None else audited, len(names))
        at_random = _drawn_at_random(chosen, places)
        classes = _classes_of_labels(self.classes, names)
        given, truth = _positions(names, classes, "given_labels"), _checked_positions(truth_names, of_a_class, classes)

        judgement = _judge_features(views, given, copies, len(classes))
        found = untrusted_audit.conclude(judgement, given, places, truth, at_random=at_random)
        self._forget()
        self.classes_, self.n_features_in_ = classes, views[0].shape[1]
        self.probs_, self.posterior_, self.p_wrong_ = judgement.probs, found.posterior, found.p_wrong
        self.temperature_, self.noise_matrix_ = judgement.temperature, judgement.noise_matrix
        self.verdict_, self.at_least_, self.at_most_ = found.verdict, found.at_least, found.at_most
        self.estimated_accuracy_, self.estimated_accuracy_at_most_ = 1 - found.at_least, found.is_bound
        self._set_cutoff()
        self._decide(given, (self.p_wrong_ > self.cutoff_) & (found.verdict == "found"), places, truth)
        return self

    def fit_predict(
        self,
        probs: npt.ArrayLike,
        given_labels: npt.ArrayLike,
        *,
        audited: Mapping[int, Any] | None = None,
        chosen: Mapping[int, str] | str | None = None,
    ) -> Mask:
        """Judge the given labels, and say which are wrong.

        Parameters
        ----------
        probs, given_labels, audited, chosen
            As for :meth:`fit`.

        Returns
        -------
        ndarray of bool, shape (N,)
            ``is_wrong_``.
        """
        return self.fit(probs, given_labels, audited=audited, chosen=chosen).is_wrong_

    def _forget(self) -> None:
        """Drop what was found before: not all of it would be replaced."""
        for name in [name for name in vars(self) if name.endswith("_")]:
            delattr(self, name)

    def _set_cutoff(self) -> None:
        self.cutoff_ = posterior.expected_f1_cutoff(self.p_wrong_) if self.cutoff == "auto" else float(self.cutoff)

    def _decide(self, given: Index, above: Mask, places: Index, truth: Index) -> None:
        """Decide what becomes of labels, of which some lie above the cut-off."""
        above[places] = truth != given[places]  # what an expert has found is not held back
        audited, no_class = np.zeros((2, len(given)), np.bool_)
        audited[places], no_class[places] = True, truth == expert_labels.NO_CLASS
        numbers = [str(k) for k in range(len(self.classes_))]
        decided = bayes_cutoff.decide(
            [""] * len(given),
            given,
            numbers,
            score=self.p_wrong_,
            above=above,
            action=self.action,
            posterior=self.posterior_,
            audited=audited,
            no_class=no_class,
        ).table
        self.is_wrong_, self.kept_ = above, (decided["action"] != "drop").to_numpy()
        # a dropped image has no final label: here it stays as it was given
        self.labels_ = self.classes_[np.where(self.kept_, decided["final_label"].where(self.kept_, "0").astype(int), given)]

    def _warn(self) -> None:
        """Warn of an estimate that a wrong order of the columns or rows explains better than wrong labels do."""
        n_classes = len(self.classes_)
        if self.estimated_accuracy_ < 1 / n_classes:
            warnings.warn(
                f"the estimated accuracy of the given labels, {self.estimated_accuracy_:.3g}, is below chance (1/{n_classes}): check that "
                f"the columns of probs stand for the classes {_some(self.classes_)}, in this order, and that its rows and given_labels are "
                "of the same images",
                stacklevel=3,
            )

    def _check_parameters(self) -> None:
        if not (isinstance(self.action, str) and self.action in ACTIONS):
            raise ValueError(f"action={self.action!r}: 'soft', 'relabel' and 'drop' are accepted")
        is_auto = isinstance(self.cutoff, str) and self.cutoff == "auto"  # an array compares element by element
        if not is_auto and not (_is_number(self.cutoff) and 0 <= float(self.cutoff) <= 1):
            raise ValueError(f"cutoff={self.cutoff!r}: 'auto' and numbers from 0 to 1 are accepted")
        if not isinstance(self.trusted, bool):
            raise ValueError(f"trusted={self.trusted!r}: True and False are accepted")
        if self.max_temperature is not None and not (_is_number(self.max_temperature) and self.max_temperature > 0):
            raise ValueError(f"max_temperature={self.max_temperature!r}: None and numbers above 0 are accepted")
        if self.max_class_ratio is not None and not (_is_number(self.max_class_ratio) and self.max_class_ratio >= 1):
            raise ValueError(f"max_class_ratio={self.max_class_ratio!r}: None and numbers from 1 are accepted")


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _check_indexes(arrays: Mapping[str, Any], audited: Any) -> None:
    """Refuse pandas objects, by name in the order of the arguments, that pandas would not put side by side as they are."""
    indexes: dict[str, Any] = {name: value.index for name, value in arrays.items() if hasattr(value, "iloc")}
    first = next(iter(indexes), "")
    own: Any = indexes.get(first)
    for name, labels in indexes.items():
        if not own.equals(labels):
            pairs = [(i, one, other) for i, (one, other) in enumerate(zip(own.tolist(), labels.tolist(), strict=False)) if one != other]
            differ = f"first in row {pairs[0][0]}: {pairs[0][1]!r} and {pairs[0][2]!r}" if pairs else f"{len(own)} and {len(labels)} rows"
            raise ValueError(
                f"the indexes of {first} and {name} differ ({differ}): bring both into the same order, "
                f"as by {name}.reindex({first}.index), or give arrays whose rows belong together"
            )
    if hasattr(audited, "iloc") and own is not None and own.tolist() != list(range(len(own))):
        raise ValueError(
            f"audited is a Series, and the index of {first} is not 0, 1, 2, …, so its index may mean positions or names: "
            "give a dict of labels by position, as {17: 'cat'}"
        )


def _check_unmasked(values: Any, name: str) -> None:
    if isinstance(values, np.ma.MaskedArray) and np.ma.getmaskarray(values).any():
        n_masked = int(np.count_nonzero(np.ma.getmaskarray(values)))
        raise ValueError(f"{name} has {n_masked} masked values, which have no meaning here: leave these rows out, as by {name}[~mask]")


def _column_names(probs: Any) -> list[Any] | None:
    """The names of a table's columns; None for arrays, and for a table that only numbers its columns."""
    columns = getattr(probs, "columns", None)
    if columns is None:
        return None
    names = columns.tolist() if hasattr(columns, "tolist") else list(columns)
    return None if names == list(range(len(names))) else names


def _numbers(values: npt.ArrayLike, name: str) -> npt.NDArray[Any]:
    """An array of real numbers: of float64, or as it is where it is of floats."""
    _check_unmasked(values, name)
    try:
        if np.iscomplexobj(values):  # NumPy would drop the imaginary part
            raise ValueError("they are complex")
        array = np.asarray(values)
        return array if array.dtype in (np.float32, np.float64) else array.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} is no table of numbers ({error})") from error


def _check_finite(table: npt.NDArray[Any], name: str) -> None:
    if not np.isfinite(table).all():
        raise ValueError(f"{name} has nan or infinite values, first in row {int(np.argmin(np.isfinite(table).all(axis=1)))}")


def _views(features: Any) -> list[npt.NDArray[Any]]:
    """The views of the images (N, D_v), each a table of finite numbers."""
    several = isinstance(features, list | tuple) and len(features) > 0 and all(np.ndim(view) == 2 for view in features)
    views = [_numbers(view, "features") for view in (features if several else [features])]
    for view in views:
        if view.ndim != 2 or view.shape[0] < 2 or view.shape[1] < 1:
            raise ValueError(f"features has the shape {view.shape}: (N, D) with at least two rows and one column is accepted")
        if len(view) != len(views[0]):
            raise ValueError(f"the views of features have {len(views[0])} and {len(view)} rows: each is accepted with a row for each image")
        _check_finite(view, "features")
    return views


def _judge_features(views: Sequence[npt.NDArray[Any]], given: Index, copies: npt.NDArray[Any], n_classes: int) -> UntrustedJudgement:
    """Judge given labels (N,) by views of the images (N, D_v); those of one group (N,) of copies are in one fold.

    Sums of floats, and the dealing of folds, depend on an order: it is that of the features' digests, which no permutation changes.
    """
    rows = zip(*views, strict=True)
    digests = np.array([hashlib.sha256(np.concatenate(row, dtype=np.float64).tobytes()).hexdigest() for row in rows])
    order = np.lexsort([given, digests])
    _, number = np.unique(copies, return_inverse=True)
    groups = duplicate_groups(digests[order].tolist(), [str(group) for group in number[order].tolist()])
    n_groups = len(np.unique(groups))
    if n_groups < 2:
        raise ValueError("all images are copies of one another, by groups or by equal features: at least two different ones are accepted")
    folds = assign_folds(groups, given[order], folds=min(FOLDS, n_groups), rng=np.random.default_rng(0))
    scaled = [fit_scaling(view).apply(view) for view in (_within_range(view[order]) for view in views)]
    found = judge_untrusted(scaled, given[order], n_classes=n_classes, folds=folds)
    back = np.argsort(order)
    by_image = ("scores", "probs", "posterior", "uniform_posterior", "matrix_posterior", "uniform_probs", "taught")
    return dataclasses.replace(found, **{name: getattr(found, name)[back] for name in by_image})


def _within_range(view: npt.NDArray[Any]) -> Float:
    """A view whose largest value is near 1, where its squares would leave the range of floats; any other stays as it is, to the bit."""
    _, exponent = np.frexp(np.abs(view).max())
    return np.ldexp(np.asarray(view, np.float64), -exponent) if abs(exponent) > 100 else view


def _probabilities(probs: npt.ArrayLike) -> Float:
    table = np.asarray(_numbers(probs, "probs"), np.float64)
    if table.ndim != 2 or table.shape[0] < 1 or table.shape[1] < 2:
        raise ValueError(f"probs has the shape {table.shape}: (N, K) with at least one row and two columns is accepted")
    _check_finite(table, "probs")
    if (table < 0).any():
        raise ValueError(f"probs has negative values, first in row {int(np.argmax((table < 0).any(axis=1)))}")
    sums = table.sum(axis=1, keepdims=True)
    if (off := np.abs(sums[:, 0] - 1) > SUM_TOLERANCE).any():
        row = int(np.argmax(off))
        raise ValueError(f"probs must be probabilities, but row {row} sums to {sums[row, 0]:.6g} and not to 1")
    return np.asarray(table / sums)


def _one_dimensional(values: Any, name: str) -> npt.NDArray[Any]:
    _check_unmasked(values, name)
    labels = np.asarray(values)
    if labels.ndim != 1:
        raise ValueError(f"{name} has the shape {labels.shape}: (N,) is accepted")
    if labels.dtype.kind == "f" and not np.isfinite(labels).all():
        raise ValueError(f"{name} has nan or infinite values")
    if labels.dtype.kind == "O" and not (all(isinstance(x, str) for x in labels) or all(_is_number(x) and x == x for x in labels)):
        raise ValueError(f"{name} must be all str or all int, without missing ones")
    return labels


def _audited(audited: Mapping[int, Any], n_images: int) -> tuple[Index, npt.NDArray[Any], Mask]:
    """Positions of the checked images (M,), the labels of those that are of a class, and which these are (M,)."""
    if not hasattr(audited, "keys"):  # a Series has them
        raise ValueError(f"audited={audited!r} is no mapping: give a dict of labels by position, as {{17: 'cat'}}")
    checks = dict(audited)
    places = list(checks)
    for place in places:
        if not isinstance(place, (int, np.integer)) or isinstance(place, bool) or not 0 <= place < n_images:
            raise ValueError(f"audited names the position {place!r}: 0 to {n_images - 1} are accepted")
    of_a_class = [label is not None for label in checks.values()]
    names = _one_dimensional([label for label in checks.values() if label is not None], "audited")
    return np.array(places, np.int64), names, np.array(of_a_class, np.bool_)


def _drawn_at_random(chosen: Mapping[int, str] | str | None, places: Index) -> Mask:
    """Mark the checked images that were drawn at random, shape (M,)."""
    kinds = (expert_labels.SUSPECT, expert_labels.RANDOM)
    by_place = dict.fromkeys(places.tolist(), chosen) if chosen is None or isinstance(chosen, str) else dict(chosen)
    for place, kind in by_place.items():
        if kind is not None and kind not in kinds:
            raise ValueError(f"chosen={kind!r}: 'suspect' and 'random' are accepted, for all checked images or by position")
        if place not in places:
            raise ValueError(f"chosen names the position {place!r}, which audited does not: say of checked images how they were chosen")
    return np.array([by_place.get(place) == expert_labels.RANDOM for place in places.tolist()], np.bool_)


def _classes(
    asked: npt.ArrayLike | None, columns: list[Any] | None, given: npt.NDArray[Any], truth: npt.NDArray[Any], n_classes: int
) -> npt.NDArray[Any]:
    """The labels that the columns of the probabilities stand for, shape (K,): as asked for, as they are named, or sorted numbers."""
    if asked is not None:
        classes = _one_dimensional(asked, "classes")
        if len(classes) != n_classes or len(set(classes.tolist())) != n_classes:
            raise ValueError(f"classes has {len(set(classes.tolist()))} different names ({_some(classes)}), but probs {n_classes} columns")
        if columns is not None and set(columns) & set(classes.tolist()) and columns != classes.tolist():
            raise ValueError(
                f"classes ({_some(classes)}) contradict the column names of probs ({_listed(columns)}): "
                "leave classes out to use the names, or give probs.to_numpy()"
            )
        return classes
    own = set(given.tolist())
    if columns is not None:
        unnamed = [name for name in given.tolist() if name not in set(columns)]
        if unnamed or len(set(columns)) != n_classes:
            why = f"{unnamed[0]!r}, a given label, is none of them" if unnamed else "they are not all different"
            raise ValueError(
                f"the column names of probs ({_listed(columns)}) are not the labels ({why}): name the columns by label, "
                "or say with classes= what each column stands for"
            )
        return np.array(columns, dtype=object if len({type(name) for name in columns}) > 1 else None)
    foreign = [name for name in truth.tolist() if name not in own]
    mixed = [name for name in foreign if isinstance(name, str | bytes) != isinstance(next(iter(own)), str | bytes)]
    # labels that nobody gave are classes as long as there are columns for them
    if mixed or len(own) <= n_classes < len(own.union(foreign)):
        raise ValueError(
            f"audited has the unknown label {(mixed or foreign)[0]!r}: given_labels has {_some(np.array(sorted(own)))}, "
            f"and probs {n_classes} columns; write checked labels as given ones, or say with classes= what the columns stand for"
        )
    found = sorted(own.union(foreign))
    if len(found) != n_classes:
        raise ValueError(
            f"probs has {n_classes} columns, but there are {len(found)} different labels ({_listed(found)}): "
            "say with classes= what the columns stand for"
        )
    if isinstance(found[0], str | bytes):
        raise ValueError(
            f"the labels are text ({_listed(found)}), and their alphabetical order need not be that of the columns of probs: say with "
            "classes= what the columns stand for (of a scikit-learn model, model.classes_), or give probs as a DataFrame with the labels "
            "as column names"
        )
    return np.array(found)


def _classes_of_labels(asked: npt.ArrayLike | None, given: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The classes, shape (K,): as asked for, or the different given labels, sorted."""
    if asked is None:
        found = sorted(set(given.tolist()))
        if len(found) < 2:
            raise ValueError(
                f"given_labels has one label only ({_listed(found)}), and labels are judged beside those of another class: "
                "give images of at least two classes, or say with classes= which there are"
            )
        return np.array(found, dtype=object if len({type(name) for name in found}) > 1 else None)
    classes = _one_dimensional(asked, "classes")
    if len(classes) < 2 or len(set(classes.tolist())) != len(classes):
        raise ValueError(
            f"classes has {len(set(classes.tolist()))} different names ({_some(classes)}): at least two, each once, are accepted"
        )
    return classes


def _checked_positions(names: npt.NDArray[Any], of_a_class: Mask, classes: npt.NDArray[Any]) -> Index:
    """Checked labels (M,) as positions in the classes, or ``NO_CLASS``; the names are of those that are of a class."""
    found = np.full(len(of_a_class), expert_labels.NO_CLASS)
    found[of_a_class] = _positions(names, classes, "audited")
    return found


def _positions(names: npt.NDArray[Any], classes: npt.NDArray[Any], what: str) -> Index:
    position = {name: k for k, name in enumerate(classes.tolist())}
    unknown = [name for name in names.tolist() if name not in position]
    if unknown:
        raise ValueError(f"{what} has {len(unknown)} unknown labels (e.g. {unknown[0]!r}): the classes are {_some(classes)}")
    return np.array([position[name] for name in names.tolist()], np.int64)


def _some(names: npt.NDArray[Any]) -> str:
    return _listed(names.tolist())


def _listed(names: list[Any]) -> str:
    return ", ".join(map(repr, names[:10])) + (", …" if len(names) > 10 else "")
