"""Classes of image files, by a trained model: ``predictions.csv``.

``bccp predict --model MODEL --images FOLDER_OR_FILE``. Files are decoded and resized as for training, a few at a time, so that
memory does not grow with their number.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from bccp.core.errors import BCCPError
from bccp.core.home import scratch_owner
from bccp.core.paths import expanded
from bccp.data import own_tables
from bccp.data.archives import is_hidden
from bccp.serving.remote_model import TOKEN_ENV, RemoteModel
from bccp.tracking.backends import ledger_uri
from bccp.tracking.store import Ledger

if TYPE_CHECKING:
    from bccp.models.predictor import Answer, ServedModel

_COLUMNS = ("image", "class", "probability", "top_3", "error")

MAX_BYTES = 500_000_000
"""A larger file is not read."""

_CHUNK_FILES, _CHUNK_BYTES = 64, 50_000_000
_SHOWN = 10


def image_files(place: Path, *, but: Path) -> Iterator[Path]:
    """A file itself, or all files below a folder, sorted within each folder; hidden ones are left out, as in ``fetch_data``.

    Links to folders are followed; one that leads back to a folder above it comes as if it were a file. The file ``but`` is left out,
    and so are tables of this package: those of an earlier run, or of an export, may lie among the images.

    Raises
    ------
    BCCPError
        If there is no such file or folder.
    """
    if place.is_file():
        yield place
        return
    if not place.is_dir():
        raise BCCPError(f"IMAGES={place} does not exist: give a folder of images or an image file")
    for path in _files_below(place, [place.resolve()]):
        if not _is_own_table(path) and (path.name != but.name or path.resolve() != but.resolve()):
            yield path


def _is_own_table(path: Path) -> bool:
    if not own_tables.may_be_own_table(path.name):
        return False
    try:
        with path.open("rb") as file:
            return own_tables.is_own_table(path.name, file.read(own_tables.HEAD_BYTES))
    except OSError:  # told when it is read
        return False


def _files_below(folder: Path, above: Sequence[Path]) -> Iterator[Path]:
    """A folder's files, then those of each folder in it; ``above``: the folders that lead to it, and itself, without links."""
    try:
        with os.scandir(folder) as found:
            inside = {folder / entry.name: entry.is_dir() for entry in found if not is_hidden(entry.name)}
    except OSError as error:
        raise BCCPError(f"{error.filename} cannot be read ({error.strerror}): make it readable, or give another folder") from error
    real = {path: path.resolve() for path in sorted(inside) if inside[path]}
    yield from (path for path in sorted(inside) if path not in real or real[path] in above)
    for path, place in real.items():
        if place not in above:
            yield from _files_below(path, [*above, place])


def predict(model: ServedModel | RemoteModel, files: Iterator[Path], root: Path, out: TextIO) -> tuple[int, int, list[str]]:
    """Write the answers for all files, as they come.

    Parameters
    ----------
    model : ServedModel or RemoteModel
    files : iterator of Path
        See :func:`image_files`.
    root : Path
        The folder that they are below.
    out : text file
        Gets a table with :data:`_COLUMNS`; ``image`` is the path below the root, ``top_3`` is JSON: classes with their probabilities, the
        likeliest first.

    Returns
    -------
    n_files : int
    n_unreadable : int
        Files without an answer.
    examples : list of str
        The first of them, each with the reason.
    """
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_COLUMNS)
    n_files, n_unreadable = 0, 0
    examples: list[str] = []
    for names, answers in _answered(model, files, root):
        for name, answer in zip(names, answers, strict=True):
            top = "" if answer.top is None else json.dumps({label: round(p, 6) for label, p in answer.top.items()}, ensure_ascii=False)
            probability = "" if answer.probability is None else f"{answer.probability:.6f}"
            writer.writerow((name, answer.label or "", probability, top, answer.error or ""))
            if answer.error is not None:
                n_unreadable += 1
                examples += [f"{name}: {answer.error}"] if n_unreadable <= _SHOWN else []
        n_files += len(names)
    return n_files, n_unreadable, examples


def _answered(model: ServedModel | RemoteModel, files: Iterator[Path], root: Path) -> Iterator[tuple[list[str], list[Answer]]]:
    """Chunks of names and answers; a chunk's files are in memory together, up to so many bytes and one file more."""
    from bccp.models.predictor import Answer

    while chunk := list(islice(files, _CHUNK_FILES)):
        names = [path.relative_to(root).as_posix() for path in chunk]
        answers: dict[int, Answer] = {}
        held: dict[int, bytes] = {}
        for place, path in enumerate(chunk):
            data = _read(path)
            if isinstance(data, str):
                answers[place] = Answer(None, None, None, data)
            else:
                held[place] = data
            if sum(map(len, held.values())) > _CHUNK_BYTES or place == len(chunk) - 1:
                answers |= dict(zip(held, model.answers(list(held.values())), strict=True))
                held.clear()
        yield names, [answers[place] for place in range(len(chunk))]


def _read(path: Path) -> bytes | str:
    """A file's bytes, or why there are none."""
    try:
        if not path.is_file():
            return "a link to a folder that it lies in" if path.is_dir() else "no file, or a broken link"
        if path.stat().st_size > MAX_BYTES:
            return f"larger than {MAX_BYTES} bytes"
        return path.read_bytes()
    except OSError as error:
        return f"cannot be read: {error.strerror}"


@contextmanager
def _whole_or_not_at_all(out: Path) -> Iterator[TextIO]:
    """A text file that takes its place when the block ends well, and is gone when it does not."""
    partial = out.with_name(f".{out.name}.{scratch_owner()}.partial")
    try:
        with partial.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            yield file
        partial.replace(out)
    except OSError as error:
        raise BCCPError(f"OUT={out} cannot be written ({error.strerror}): choose another file") from error
    finally:
        partial.unlink(missing_ok=True)


@dataclass(frozen=True)
class Predicted:
    """What was predicted.

    Attributes
    ----------
    table : Path
    n_files, n_unreadable : int
        All files, and those without an answer.
    examples : list of str
        The first without an answer, each with the reason.
    """

    table: Path
    n_files: int
    n_unreadable: int
    examples: list[str]


def predict_files(model: str, images: str, place_of_table: str, *, url: str | None = None) -> Predicted:
    """Classify files by a model, or by a service.

    Parameters
    ----------
    model : str
        As for :func:`bccp.serving.named_models.find_named`; empty where there is a URL.
    images : str
        A folder or a file.
    place_of_table : str
        The table to write, which may replace one of predictions and no other file.
    url : str, optional
        Address of the service that is to answer.

    Raises
    ------
    BCCPError
        If there is no such model or service, there are no files, or the table cannot be written.
    """
    if not images:
        raise BCCPError("of what? give IMAGES=a folder of images or an image file")
    out = expanded(place_of_table, option="OUT")
    place = expanded(images, option="IMAGES")
    if out.is_dir() or not out.resolve().parent.is_dir():
        raise BCCPError(f"OUT={out} cannot be written: give a file in a folder that exists")
    if out.exists() and not _is_table(out):
        raise BCCPError(f"OUT={out} exists and is no table of predictions: choose another file")
    if next(image_files(place, but=out), None) is None:
        raise BCCPError(f"IMAGES={place} holds no files: give a folder of images or an image file")
    answering = RemoteModel(url, os.environ.get(TOKEN_ENV, "").strip()) if url is not None else _loaded(model)
    with _whole_or_not_at_all(out) as file:
        done = predict(answering, image_files(place, but=out), place if place.is_dir() else place.parent, file)
    return Predicted(out.resolve(), *done)


def _loaded(model: str) -> ServedModel:
    from bccp.serving.engine.loaded_model import load_served  # loads PyTorch

    uri, note = ledger_uri(None)
    if note:
        print(note, flush=True)
    return load_served(Ledger(uri), model, option="MODEL").served


def _is_table(out: Path) -> bool:
    """Whether a file is empty or begins as a table of predictions does, so that nothing is lost where another takes its place."""
    header = ",".join(_COLUMNS).encode()
    try:
        with out.open("rb") as file:
            return out.is_file() and file.read(len(header)) in (b"", header)
    except OSError as error:
        raise BCCPError(f"OUT={out} cannot be read ({error.strerror}): choose another file") from error
