"""Reads a table of labels into answers: who says what about which image.

A table is laid out in one of four ways: one answer a row, one column an annotator, one column a class, or Label Studio's tasks. Which
images and classes there are is not known here: cells are taken as they stand.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bccp.core.errors import BCCPError, few
from bccp.data.label_tables import columns as meaning
from bccp.data.label_tables.columns import YES, Columns, columns_of, labels_of
from bccp.data.label_tables.grids import Grid, UnreadTableError, decoded, grid_of_csv, grid_of_json, grid_of_records, parsed_json

PROBLEMS = {
    "malformed": "rows without an image or a label, or with surplus cells",
    "skipped": "answers that were skipped, cancelled or rejected, or that deny a class",
    "several_classes": "rows that name several classes, or none of those that have a column",
}
"""Why a row is no answer, in the order in which a row is tested for it."""


@dataclass(frozen=True)
class Answer:
    """Answer of one row: an image, a label and who gave it.

    Attributes
    ----------
    place : str
        Where it stands: ``line 3``, ``record 3``, ``task 3``.
    image, label, user : str
        Cells as they stand; ``user`` without blanks at its ends, and empty where nobody is named.
    problem : str
        One of :data:`PROBLEMS`, or empty.
    """

    place: str
    image: str
    label: str
    user: str
    problem: str = ""


@dataclass(frozen=True)
class LabelTable:
    """The answers in a table.

    Attributes
    ----------
    layout : str
        ``rows``, ``wide``, ``one_hot`` or ``label_studio``.
    image, user : str
        The columns; ``user`` is empty where there is none.
    labels : tuple of str
        The columns with labels.
    answers : sequence of Answer
        In the table's order, those with problems among them.
    has_users : bool
        Whether annotators are told apart.
    """

    layout: str
    image: str
    labels: tuple[str, ...]
    user: str
    answers: Sequence[Answer]
    has_users: bool

    @property
    def described(self) -> str:
        """Layout and columns of the table, for a line of output."""
        names = few(self.labels, 5)
        how = {"wide": f"one column an annotator, {names}", "one_hot": f"one column a class, {names}"}.get(self.layout, f"label {names}")
        return f"image {self.image!r}, {how}" + (f", user {self.user!r}" if self.user else "")


def read(content: bytes, name: str, *, layout: str = "auto", columns: Columns | None = None) -> LabelTable:
    """Read a table.

    Parameters
    ----------
    content : bytes
        The whole file.
    name : str
        What messages call it, such as ``feedback file /data/f.csv``.
    layout : str
        ``auto``, ``rows``, ``wide``, ``one_hot`` or ``label_studio`` (its JSON, or what it writes as CSV, TSV or smaller JSON).
    columns : Columns, optional
        What is known of the columns, and the key that says it.

    Returns
    -------
    LabelTable

    Raises
    ------
    BCCPError
        If it is no such table, or its columns leave a choice.
    """
    asked = columns or Columns()
    try:
        text = decoded(content)
        data = parsed_json(text)
        tasks = _tasks(data)
        if tasks is not None and layout in ("auto", "label_studio"):
            return _of_tasks(tasks, asked)
        return _of_grid(grid_of_csv(text) if data is None else grid_of_json(data), layout, asked)
    except UnreadTableError as why:
        raise BCCPError(f"the {name} {why}") from None


def _of_grid(grid: Grid, layout: str, asked: Columns) -> LabelTable:
    asked = meaning.found_columns(grid, asked)
    if meaning.tells_boxes(grid) and asked.label is None:
        raise UnreadTableError("tells boxes and not the class of a whole image: export classes")
    image = asked.image or meaning.image_column(grid, asked)
    if layout == "wide":
        labels = meaning.wide_columns(grid, image, asked)
    elif layout == "one_hot":
        labels = meaning.class_columns(grid, image, asked)
    elif layout == "auto" or isinstance(asked.label, tuple):
        layout, labels = meaning.label_columns(grid, image, asked)
    else:
        layout, labels = "rows", [asked.label or meaning.label_column(grid, image, asked)]
    if layout != "rows" and len(labels) < 2:
        kind = "hold the same labels" if layout == "wide" else "are of 0 and 1"
        raise UnreadTableError(f"has no two columns that {kind}: name annotators' by {asked.option(label=['one', 'other'])}")
    for column in (image, *labels):
        if (n_columns := grid.names.count(column)) > 1:
            raise UnreadTableError(f"has {n_columns} columns {column!r}: leave one")
    user = meaning.user_column(grid, image, labels[0], asked) if layout == "rows" else ""
    makers = {"wide": _wide_answers, "one_hot": _one_hot_answers}
    answers = makers[layout](grid, image, labels) if layout in makers else _row_answers(grid, image, labels[0], user)
    return LabelTable(layout, image, tuple(labels), user, answers, has_users=layout == "wide" or user != "")


def _row_answers(grid: Grid, image: str, label: str, user: str) -> list[Answer]:
    users = grid.column(user) if user else [""] * len(grid.rows)
    parts = zip(grid.places, grid.surplus, grid.column(image), grid.column(label), users, _void(grid), strict=True)
    return [_answer(place, name, labels_of(cell), who, surplus=surplus, skipped=void) for place, surplus, name, cell, who, void in parts]


def _void(grid: Grid) -> list[bool]:
    """Mark rows that were skipped in Label Studio or rejected in Mechanical Turk, or that deny a class, as those of Open Images may."""
    values = {"wascancelled": YES, "assignmentstatus": frozenset({"rejected"})}
    values |= {"confidence": frozenset({"0", "0.0"})} if columns_of(grid, "labelname") and columns_of(grid, "imageid") else {}
    void = [False] * len(grid.rows)
    for key, told_by in values.items():
        for column in columns_of(grid, key):
            void = [was or cell.strip().casefold() in told_by for was, cell in zip(void, grid.column(column), strict=True)]
    return void


def _answer(place: str, image: str, labels: Sequence[str], user: str, *, surplus: bool = False, skipped: bool = False) -> Answer:
    label, problem = (labels[0] if labels else ""), ""
    if surplus or not image.strip():
        problem = "malformed"
    elif skipped:
        problem = "skipped"
    elif len(labels) > 1:
        problem, label = "several_classes", ", ".join(labels)
    elif not label.strip():
        problem = "malformed"
    return Answer(place, image, label, user.strip(), problem)


def _wide_answers(grid: Grid, image: str, labels: Sequence[str]) -> list[Answer]:
    answers = []
    columns = [grid.column(label) for label in labels]
    for number, (place, surplus, name) in enumerate(zip(grid.places, grid.surplus, grid.column(image), strict=True)):
        given = [(who, cells[number]) for who, cells in zip(labels, columns, strict=True) if cells[number].strip()]
        if surplus or not given:
            answers.append(Answer(place, name, "", "", "malformed"))
        else:
            answers += [_answer(f"{place}, {who}", name, labels_of(cell), who) for who, cell in given]
    return answers


def _one_hot_answers(grid: Grid, image: str, labels: Sequence[str]) -> list[Answer]:
    columns = {label: grid.column(label) for label in labels}
    answers = []
    for number, (place, surplus, name) in enumerate(zip(grid.places, grid.surplus, grid.column(image), strict=True)):
        chosen = [label for label, cells in columns.items() if cells[number].strip().casefold() in YES]
        problem = "malformed" if surplus or not name.strip() else "" if len(chosen) == 1 else "several_classes"
        answers.append(Answer(place, name, ", ".join(chosen), "", problem))
    return answers


def _tasks(data: Any) -> list[Mapping[str, Any]] | None:
    """Label Studio's tasks, if that is what these are."""
    listed = [data] if isinstance(data, Mapping) else data
    if not isinstance(listed, list) or not listed or not all(isinstance(task, Mapping) for task in listed):
        return None
    is_task = [isinstance(task.get("data"), Mapping) and isinstance(_annotations(task), list) for task in listed]
    return listed if all(is_task) else None


def _annotations(task: Mapping[str, Any]) -> Any:
    return task.get("annotations", task.get("completions"))


def _of_tasks(tasks: Sequence[Mapping[str, Any]], asked: Columns) -> LabelTable:
    """The answers in Label Studio's tasks: one for each annotation."""
    grid = grid_of_records([task["data"] for task in tasks], "task")
    image = meaning.found_columns(grid, Columns(asked.image, key=asked.key)).image or meaning.image_column(grid, asked)
    made = [
        (f"task {task.get('id', number)}", cell, annotation)
        for number, (cell, task) in enumerate(zip(grid.column(image), tasks, strict=True), start=1)
        for annotation in _annotations(task)
        if isinstance(annotation, Mapping)
    ]
    question = asked.label if isinstance(asked.label, str) else _question([annotation for _, _, annotation in made], asked)
    answers = []
    for place, cell, annotation in made:
        labels = [choice for result in _results(annotation) if result.get("from_name") == question for choice in _choices(result)]
        skipped = bool(annotation.get("was_cancelled") or annotation.get("skipped"))
        user = "" if asked.user == "" else _completed_by(annotation)
        answers.append(_answer(place, cell, list(dict.fromkeys(labels)), user, skipped=skipped))
    has_users = any(answer.user for answer in answers)
    return LabelTable("label_studio", image, (question,), "completed_by" if has_users else "", answers, has_users)


def _question(annotations: Iterable[Mapping[str, Any]], asked: Columns) -> str:
    """The name of the question that was answered by choices."""
    found = Counter(str(result.get("from_name")) for annotation in annotations for result in _results(annotation) if _choices(result))
    if not found:
        raise UnreadTableError("has no annotation with choices, by which Label Studio classifies a whole image")
    if len(found) > 1:
        say = asked.option(label=next(iter(found)))
        raise UnreadTableError(f"answers several questions, {few(list(found), 10)}: say which, as in {say}")
    return next(iter(found))


def _results(annotation: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    found = annotation.get("result")
    return [result for result in found if isinstance(result, Mapping)] if isinstance(found, list) else []


def _choices(result: Mapping[str, Any]) -> list[str]:
    value = result.get("value")
    chosen = value.get("choices") if isinstance(value, Mapping) else None
    return [str(choice) for choice in chosen] if isinstance(chosen, list) else []


def _completed_by(annotation: Mapping[str, Any]) -> str:
    """An annotator's number, or where the export tells more of them, their address."""
    who = annotation.get("completed_by", annotation.get("created_username"))
    if isinstance(who, Mapping):
        who = next((who[key] for key in ("email", "username", "id") if who.get(key) not in (None, "")), None)
    return "" if who is None else str(who).strip()
