"""Formats of an exported data set, and targets that a URL names: what is written reads back, and nothing half-written passes for whole."""

from __future__ import annotations

import hashlib
import io
import json
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image

from bccp.cli.app import call
from bccp.core.errors import BCCPError
from bccp.core.registries import EXPORT_FORMATS, Entry
from bccp.data import label_files, tables
from bccp.pipeline import export_dataset
from bccp.pipeline.exports import targets
from bccp.tracking.backends import ledger_uri
from bccp.tracking.store import Ledger
from support.exported_artifacts import COLUMNS, make_artifacts, parts_of, record

LISTS = {"folder": "labels.csv", "jsonl": "metadata.jsonl", "webdataset": "index.json"}
WRITTEN = {"cat/1.png": b"one", "cat/2.png": b"two", "dog/1.png": b"three", "mon/dog/5.png": b"five", "test/6.png": b"six"}
ABOUT = [
    {"label": label, "given_label": given, "p_wrong": wrong, "suggested_label": suggested, "p_suggested": right, "action": action}
    | {"day": day, "split": split, "source": source}
    for label, given, wrong, suggested, right, action, day, split, source in [
        ("cat", "cat", 0.125, "cat", 0.875, "keep", "tuesday", "train", "cat/1.png"),
        ("dog", "dog", 0.75, "cat", 0.7, "keep", "tuesday", "train", "cat/2.png"),
        ("cat", "dog", 0.96, "cat", 0.95, "relabel", "tuesday", "train", "dog/1.png"),
        ("dog", "dog", None, None, None, "trusted", "monday", "train", "mon/dog/5.png"),
        ("cat", "cat", None, None, None, "trusted", "tuesday", "test", "test/6.png"),
    ]
]


@pytest.fixture
def folders(home: Path, tmp_path: Path) -> dict[str, Path]:
    return make_artifacts(tmp_path / "artifacts")


def soften(folders: dict[str, Path]) -> None:
    """Judge the three labels as with ``action=soft``."""
    rows = [
        ["cat/1.png", "cat", 0.1, 0.1, False, "soften", "cat", 1.0],
        ["cat/2.png", "dog", 0.9, 0.75, True, "soften", "cat", 1.0],
        ["dog/1.png", "dog", 0.95, 0.96, True, "soften", "cat", 1.0],
    ]
    posterior = np.array([[0.9, 0.1], [0.75, 0.25], [0.96, 0.04]], np.float32)
    label_files.write_cleansed_labels(folders["cleansed_labels"], pd.DataFrame(rows, columns=COLUMNS), posterior)


def write(out: Path | str, folders: dict[str, Path], format_name: str, **options: int) -> export_dataset.Exported:
    return export_dataset.export(targets.find(str(out)), **parts_of(folders), format_name=format_name, **options)  # type: ignore[arg-type]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def lines(text: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.decode().splitlines()]


def test_jsonl_has_each_image_under_a_number_and_a_line_with_all_that_is_known(folders: dict[str, Path], tmp_path: Path) -> None:
    exported = write(tmp_path / "out", folders, "jsonl")
    files = contents(tmp_path / "out")
    rows = lines(files.pop("metadata.jsonl"))
    names = [row.pop("file_name") for row in rows]
    assert names == [f"images/00000000{number}.png" for number in range(5)]
    assert rows == ABOUT
    assert files == dict(zip(names, WRITTEN.values(), strict=True))
    assert exported.list_file == str(tmp_path / "out" / "metadata.jsonl")


@pytest.mark.parametrize("format_name", ["jsonl", "webdataset"])
def test_soft_labels_come_with_the_probability_of_each_class(folders: dict[str, Path], tmp_path: Path, format_name: str) -> None:
    soften(folders)
    write(tmp_path / "out", folders, format_name)
    if format_name == "jsonl":
        rows = lines((tmp_path / "out" / "metadata.jsonl").read_bytes())
    else:
        with tarfile.open(tmp_path / "out" / "shard-000000.tar") as tar:
            rows = [json.loads(member(tar, name)) for name in tar.getnames() if name.endswith(".json")]
    assert {row["source"]: row["probabilities"] for row in rows} == {
        "cat/1.png": {"cat": 0.9, "dog": 0.1},
        "cat/2.png": {"cat": 0.75, "dog": 0.25},
        "dog/1.png": {"cat": 0.96, "dog": 0.04},
        "mon/dog/5.png": None,
        "test/6.png": None,
    }


def member(tar: tarfile.TarFile, name: str) -> bytes:
    found = tar.extractfile(name)
    assert found is not None
    return found.read()


def test_webdataset_reads_back_and_its_index_tells_each_shard(folders: dict[str, Path], tmp_path: Path) -> None:
    write(tmp_path / "out", folders, "webdataset", shard_bytes=10_240)
    files = contents(tmp_path / "out")
    index = json.loads(files.pop("index.json"))
    assert (index["samples"], index["classes"]) == (5, ["cat", "dog"])
    # a sample takes three headers and three blocks, of 512 bytes each: three of them and the end fill 10 240 bytes
    assert [(shard["file"], shard["samples"]) for shard in index["shards"]] == [("shard-000000.tar", 3), ("shard-000001.tar", 2)]
    samples: dict[str, dict[str, bytes]] = {}
    for shard in index["shards"]:
        content = files.pop(shard["file"])
        assert (shard["bytes"], shard["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            for name in tar.getnames():
                key, _, ending = name.partition(".")
                samples.setdefault(key, {})[ending] = member(tar, name)
    assert files == {}
    assert list(samples) == [f"00000000{number}" for number in range(5)]
    assert [sample["png"] for sample in samples.values()] == list(WRITTEN.values())
    assert [sample["cls"] for sample in samples.values()] == [b"0", b"1", b"0", b"1", b"0"]
    assert [json.loads(sample["json"]) for sample in samples.values()] == ABOUT


@pytest.mark.parametrize("shard_bytes", [1, 20_479, 20_480])
def test_no_shard_is_larger_than_asked_for_unless_one_sample_is(folders: dict[str, Path], tmp_path: Path, shard_bytes: int) -> None:
    with zipfile.ZipFile(folders["raw_data"] / "images.zip", "w") as archive:
        for name in tables.read(folders["raw_data"] / "files.csv")["image"]:
            archive.writestr(name, bytes(6000))
    write(tmp_path / "out", folders, "webdataset", shard_bytes=shard_bytes)
    index = json.loads((tmp_path / "out" / "index.json").read_bytes())
    assert [shard["samples"] for shard in index["shards"]] == ([2, 2, 1] if shard_bytes == 20_480 else [1] * 5)
    assert all(shard["bytes"] <= max(shard_bytes, 10_240) for shard in index["shards"])


@pytest.mark.parametrize("format_name", LISTS)
def test_equal_data_sets_give_equal_bytes(
    folders: dict[str, Path], tmp_path: Path, format_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a", folders, format_name)
    monkeypatch.setattr("time.time", lambda: 1e9)
    monkeypatch.setattr("os.getuid", lambda: 12345)
    write(tmp_path / "b", folders, format_name)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    for shard in (tmp_path / "a").glob("*.tar"):
        with tarfile.open(shard) as tar:
            assert {(one.mtime, one.uid, one.gid, one.uname, one.gname, one.mode) for one in tar} == {(0, 0, 0, "", "", 0o644)}


def test_an_image_gets_the_ending_that_readers_know(folders: dict[str, Path], tmp_path: Path) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (2, 2)).save(picture, "PNG")
    with zipfile.ZipFile(folders["raw_data"] / "images.zip", "w") as archive:
        for name in ("a.JPG", "b.jfif", "c", "d.scan"):
            archive.writestr(name, picture.getvalue())
    names = ["a.JPG", "b.jfif", "c", "d.scan"]
    no_rows = label_files.read_cleansed_labels(folders["cleansed_labels"])
    label_files.write_cleansed_labels(folders["cleansed_labels"], no_rows.table[:0], np.array(no_rows.targets[:0]))
    splits = pd.DataFrame({"image": names, "day": "monday", "split": "train", "label": "cat"})
    tables.write(splits, folders["segregated_data"] / "splits.csv")
    write(tmp_path / "out", folders, "jsonl")
    endings = [Path(row["file_name"]).suffix for row in lines((tmp_path / "out" / "metadata.jsonl").read_bytes())]
    assert endings == [".jpg", ".jpg", ".png", ".png"]


@pytest.mark.parametrize("format_name", LISTS)
def test_a_url_gets_the_same_files_as_a_folder(
    folders: dict[str, Path], tmp_path: Path, memory: MemoryFileSystem, format_name: str
) -> None:
    write(tmp_path / "out", folders, format_name)
    exported = write("memory://bucket/cleaned/", folders, format_name)
    assert {path.removeprefix("/bucket/cleaned/"): memory.cat(path) for path in memory.find("/bucket")} == contents(tmp_path / "out")
    assert (exported.place, exported.list_file) == ("memory://bucket/cleaned", f"memory://bucket/cleaned/{LISTS[format_name]}")


def test_a_file_url_is_a_local_folder_that_appears_when_it_is_whole(folders: dict[str, Path], tmp_path: Path) -> None:
    assert write((tmp_path / "out").as_uri(), folders, "jsonl").place == str(tmp_path / "out")
    assert (tmp_path / "out" / "metadata.jsonl").exists()


def test_a_url_that_holds_something_is_refused_and_left_alone(folders: dict[str, Path], memory: MemoryFileSystem) -> None:
    memory.pipe("/bucket/cleaned/mine.txt", b"mine")
    for url in ("memory://bucket/cleaned", "memory://bucket/cleaned/mine.txt"):
        with pytest.raises(BCCPError, match=f"^OUT={url} is not an empty folder, and nothing is overwritten"):
            write(url, folders, "folder")
    assert memory.find("/") == ["/bucket/cleaned/mine.txt"]
    memory.makedirs("/bucket/empty")
    write("memory://bucket/empty", folders, "folder")


class Faulty(MemoryFileSystem):
    """A file system that fails at the third file; dead, it deletes nothing any more."""

    protocol = "faulty"
    dead = False

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.removeprefix("faulty://")))

    def open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        if mode == "wb" and len(self.store) == 2:
            raise ConnectionError("no answer from https://me:secret@example.org/x?token=secret")
        return super().open(path, mode, **options)

    def rm_file(self, path: str) -> None:
        if self.dead:
            raise ConnectionError
        super().rm_file(path)


fsspec.register_implementation("faulty", Faulty, clobber=True)


@pytest.mark.parametrize("format_name", LISTS)
def test_an_export_that_fails_far_away_deletes_what_it_sent(folders: dict[str, Path], memory: MemoryFileSystem, format_name: str) -> None:
    with pytest.raises(BCCPError) as failed:
        write("faulty://bucket/x", folders, format_name, shard_bytes=1)
    said = "ConnectionError: no answer from https://example.org/x"
    assert str(failed.value) == f"OUT=faulty://bucket/x cannot be written ({said}): check the URL, the network and the environment's keys"
    assert memory.find("/") == []


@pytest.mark.parametrize("format_name", LISTS)
def test_an_export_that_was_killed_far_away_has_no_list(
    folders: dict[str, Path], memory: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch, format_name: str
) -> None:
    monkeypatch.setattr(Faulty, "dead", True)  # as after SIGKILL, what was sent stays
    with pytest.raises(BCCPError):
        write("faulty://bucket/x", folders, format_name, shard_bytes=1)
    left = memory.find("/")
    assert len(left) == 2
    assert not [path for path in left if path.endswith(LISTS[format_name])]


def test_ctrl_c_deletes_what_was_sent(folders: dict[str, Path], memory: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = []

    def copy(source: Any, sink: Any) -> None:
        sink.write(source.read())
        sent.append(memory.find("/"))
        if len(sent) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("shutil.copyfileobj", copy)
    with pytest.raises(KeyboardInterrupt):
        write("memory://bucket/x", folders, "jsonl")
    assert len(sent[1]) == 2
    assert memory.find("/") == []


def test_an_error_of_the_originals_is_not_put_down_to_the_target(folders: dict[str, Path], memory: MemoryFileSystem) -> None:
    place = folders["raw_data"] / "images.zip"
    place.write_bytes(place.read_bytes().replace(b"three", b"eerht"))
    with pytest.raises(zipfile.BadZipFile):
        write("memory://bucket/x", folders, "folder")
    assert memory.find("/") == []


def test_a_system_with_folders_gets_them_made(folders: dict[str, Path], memory: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = MemoryFileSystem.open

    def strict(self: Any, path: str, mode: str = "rb", **options: Any) -> Any:
        if mode == "wb" and not self.isdir(path.rpartition("/")[0]):
            raise FileNotFoundError(path)
        return plain(self, path, mode, **options)

    monkeypatch.setattr(MemoryFileSystem, "open", strict)
    write("memory://bucket/x", folders, "jsonl")
    assert memory.exists("/bucket/x/metadata.jsonl")


@pytest.mark.parametrize(
    ("url", "status", "said"),
    [
        ("gs://me:secret@b/x?token=secret", 2, "OUT=gs://b/x needs the package gcsfs, which is not installed: pip install gcsfs"),
        ("gopher://me:secret@h/x", 1, "OUT=gopher://h/x cannot be written (ValueError: Protocol not known: gopher): check the URL, "),
    ],
)
def test_a_url_that_cannot_be_opened_is_told_in_one_sentence(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, url: str, status: int, said: str
) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    assert call(["export-data", "--out", url]) == status
    told = capsys.readouterr().err
    assert told.startswith(f"error: {said}")
    assert told.count("\n") == 1
    assert "secret" not in told


def test_a_format_that_there_is_not_is_a_wrong_call(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["export-data", "--out", str(tmp_path / "out"), "--format", "jsnl"]) == 2
    said = "error: --format=jsnl is unknown: use one of folder, jsonl, webdataset (did you mean 'jsonl'?)\n"
    assert capsys.readouterr().err == said
    assert call(["export-data", "--out", str(tmp_path / "out"), "--shard-bytes", "0"]) == 2
    assert "--shard-bytes" in capsys.readouterr().err


def write_names(dataset: Any, target: Any) -> str:
    """Write the images' ids alone."""
    target.put_list("names.txt", "".join(f"{sample.image}\n" for sample in dataset.samples()).encode())
    return "names.txt"


def test_a_new_format_is_one_function_and_one_line(folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EXPORT_FORMATS.entries, "names", Entry(f"{__name__}:write_names"))
    write(tmp_path / "out", folders, "names")
    assert contents(tmp_path / "out") == {"names.txt": "".join(f"{image}\n" for image in WRITTEN).encode()}


def test_the_command_writes_a_format_to_a_url_and_tells_it(
    home: Path, tmp_path: Path, memory: MemoryFileSystem, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _ = record(Ledger(ledger_uri(None)[0]), tmp_path / "one")
    words = ["export-data", "--out", "memory://bucket/one", "--format", "webdataset", "--shard-bytes", "10240"]
    assert call([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    actions = {"keep": 2, "trusted": 2, "left_out": 2, "relabel": 1}
    labels = {"changed": 1, "dropped": 0, "left": 2, "expected_wrong_changes": 0.05, "expected_right_drops": 0.0}
    index = "memory://bucket/one/index.json"
    assert told == {"folder": "memory://bucket/one", "list": index, "from": f"run {run}", "files": 5, "actions": actions} | labels
    assert len(json.loads(memory.cat(index))["shards"]) == 2
    assert call(words) == 1
    assert "OUT=memory://bucket/one is not an empty folder" in capsys.readouterr().err
    assert call(["export-data", "--out", "memory://bucket/two", "--format", "jsonl"]) == 0
    said = "5 of 7 images in 2 classes (2 keep, 2 left_out, 1 relabel, 2 trusted): memory://bucket/two, from run "
    assert said in (out := capsys.readouterr().out)
    assert "; metadata.jsonl lists what was written\nlabels: 1 changed" in out
