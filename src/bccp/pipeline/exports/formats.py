"""The formats of ``bccp export-data``: a function each, named in :data:`bccp.core.registries.EXPORT_FORMATS`.

A format's function gets the data set and the target, writes the files, then, last of all, the list of them, and returns the list's name: a
target without its list is not whole. It holds one image at a time, or part of one.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from typing import IO, Any, cast

from bccp.core import progress
from bccp.core.home import scratch
from bccp.pipeline.exports.dataset import Dataset, Sample
from bccp.pipeline.exports.labels_list import LIST, write_labels_list
from bccp.pipeline.exports.targets import Sink, Target


def write_folder(dataset: Dataset, target: Target) -> str:
    """Write class folders by final label, and :data:`~bccp.pipeline.exports.labels_list.LIST`, which has every image."""
    written = dataset.table.loc[dataset.table["file"] != "", ["image", "file"]]
    for image, file in progress.each("image", list(written.itertuples(index=False, name=None))):
        with target.create(file) as sink:
            dataset.copy(image, sink)
    with scratch("export") as place:
        write_labels_list(dataset.table, place / LIST)
        target.put_list(LIST, (place / LIST).read_bytes())
    return LIST


def write_jsonl(dataset: Dataset, target: Target) -> str:
    """Write ``images`` and ``metadata.jsonl``, which the ``imagefolder`` of Hugging Face's ``datasets`` reads.

    The images' names are numbers: ``datasets`` takes a name or a folder with ``train``, ``val`` or ``test`` in it for a split, and leaves
    all other images out without a word.
    """
    lines = io.StringIO()
    for sample in dataset.samples():
        name = f"images/{sample.key}{sample.ending}"
        with target.create(name) as sink:
            dataset.copy(sample.image, sink)
        lines.write(_json({"file_name": name, **_described(sample)}) + "\n")
    target.put_list("metadata.jsonl", lines.getvalue().encode())
    return "metadata.jsonl"


def write_webdataset(dataset: Dataset, target: Target) -> str:
    """Write tar files of samples, and ``index.json`` with their sizes and SHA-256.

    A sample is ``<key>.<ending>``, ``<key>.cls`` (its label's position in the index's ``classes``) and ``<key>.json``. Equal data sets
    give equal bytes.
    """
    shards: list[dict[str, Any]] = []
    for number, group in groupby(_sharded(dataset), key=itemgetter(0)):
        name, n_samples = f"shard-{number:06d}.tar", 0
        with target.create(name) as sink:
            digested = _Digested(sink)
            # as a stream: a target far away cannot go back
            with tarfile.open(fileobj=cast(IO[bytes], digested), mode="w|", format=tarfile.USTAR_FORMAT) as tar:
                for _, sample, texts in group:
                    with dataset.archive.open(sample.image) as source:
                        tar.addfile(_member(f"{sample.key}{sample.ending}", dataset.archive.getinfo(sample.image).file_size), source)
                    for ending, text in texts.items():
                        tar.addfile(_member(f"{sample.key}.{ending}", len(text)), io.BytesIO(text))
                    n_samples += 1
        shards.append({"file": name, "samples": n_samples, "bytes": digested.n_bytes, "sha256": digested.sha256.hexdigest()})
    index = {"samples": sum(shard["samples"] for shard in shards), "classes": dataset.classes, "shards": shards}
    target.put_list("index.json", (json.dumps(index, indent=2, ensure_ascii=False) + "\n").encode())
    return "index.json"


class _Digested:
    """A sink that knows what went through it."""

    def __init__(self, sink: Sink) -> None:
        self.sink, self.sha256, self.n_bytes = sink, hashlib.sha256(), 0

    def write(self, part: bytes) -> int:
        self.sha256.update(part)
        self.n_bytes += len(part)
        self.sink.write(part)
        return len(part)


def _sharded(dataset: Dataset) -> Iterator[tuple[int, Sample, dict[str, bytes]]]:
    """Each sample with its shard's number and the texts beside the image."""
    position = {label: str(index).encode() for index, label in enumerate(dataset.classes)}
    number, filled = 0, 0
    for sample in dataset.samples():
        texts = {"cls": position[sample.label], "json": _json(_described(sample)).encode()}
        sizes = [dataset.archive.getinfo(sample.image).file_size, *map(len, texts.values())]
        n_bytes = sum(tarfile.BLOCKSIZE + _rounded(size, tarfile.BLOCKSIZE) for size in sizes)
        if filled and _rounded(filled + n_bytes + 2 * tarfile.BLOCKSIZE, tarfile.RECORDSIZE) > dataset.shard_bytes:
            number, filled = number + 1, 0
        filled += n_bytes
        yield number, sample, texts


def _member(name: str, n_bytes: int) -> tarfile.TarInfo:
    """A header without time and owner, which would differ from one export to the next."""
    member = tarfile.TarInfo(name)
    member.size, member.mode = n_bytes, 0o644
    return member


def _described(sample: Sample) -> dict[str, Any]:
    return {"label": sample.label, **sample.about, "source": sample.image}


def _json(document: dict[str, Any]) -> str:
    return json.dumps(document, ensure_ascii=False, allow_nan=False)


def _rounded(n_bytes: int, unit: int) -> int:
    return -(-n_bytes // unit) * unit
