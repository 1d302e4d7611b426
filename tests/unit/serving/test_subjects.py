"""How an image and a user are recognised: surely where they are, and never where a word is only the same."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import json
import lzma
import tarfile
import zipfile
from pathlib import Path

import pytest

from bccp.serving.forgetting.subjects import Image, User, holds, members_with

PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(range(200))
IMAGE = Image(hashlib.sha256(PICTURE).hexdigest())
ANN = User("Ann Ü. O'Neill", "f" * 64)


def written(path: Path, data: bytes | str) -> Path:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    {
        "votes.csv": "image,label,user\n1.png,cat,Ann Ü. O'Neill\n",
        "report.csv": "image,user\n1.png,bob;Ann Ü. O'Neill\n",
        "table.table.json": json.dumps({"columns": ["image", "user"], "data": [["1.png", "Ann Ü. O'Neill;bob"]]}),
        "page.html": f"<td>{'f' * 64}</td>",
    }.items(),
)
def test_a_user_is_found_in_our_own_files(tmp_path: Path, name: str, text: str) -> None:
    assert holds(ANN, written(tmp_path / name, text), foreign=False)


@pytest.mark.parametrize(
    ("name", "data"),
    {
        "wide.csv": "image,Ann Ü. O'Neill,bob\n1.png,cat,dog\n".encode(),
        "columns.tsv": "picture\twho\n1.png\tAnn Ü. O'Neill\n".encode("utf-16"),
        "old.csv": "picture,who\n1.png,Ann Ü. O'Neill\n".encode("cp1252"),
        "export.json": json.dumps([{"email": "Ann Ü. O'Neill"}]).encode(),
        "page.html": "<td>Ann Ü. O&#x27;Neill</td>".encode(),
    }.items(),
)
def test_a_user_is_found_in_others_files_and_archives_of_them(tmp_path: Path, name: str, data: bytes) -> None:
    assert holds(ANN, written(tmp_path / name, data))
    with zipfile.ZipFile(tmp_path / "all.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"folder/{name}", data)
        archive.writestr("folder/empty/", b"")
    assert list(members_with(ANN, tmp_path / "all.zip")) == [f"folder/{name}"]


@pytest.mark.parametrize(
    ("name", "text"),
    {
        "manifest.csv": "image,label\n1.png,ant\n",
        "votes.csv": "image,label,user\n1.png,ant,bob\n",
        "config.yaml": "wandb_entity: ant\n",
        "table.table.json": json.dumps({"columns": ["image", "label"], "data": [["1.png", "ant"]]}),
    }.items(),
)
def test_a_word_that_is_the_same_is_nobody(tmp_path: Path, name: str, text: str) -> None:
    assert not holds(User("ant", None), written(tmp_path / name, text), foreign=False)


def test_a_name_in_a_sentence_or_a_longer_name_is_nobody_either(tmp_path: Path) -> None:
    for text in ("an ant walked by\n", '"ants", "giant"', "user: anthony\n"):
        assert not holds(User("ant", None), written(tmp_path / "notes.txt", text))


def test_an_image_is_found_by_its_bytes_and_by_its_digest(tmp_path: Path) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:xz") as archive:
        member = tarfile.TarInfo("a/b.png")
        member.size = len(PICTURE)
        archive.addfile(member, io.BytesIO(PICTURE))
    held = {
        "renamed": PICTURE,
        "files.csv": f"image,bytes,sha256\n1.png,208,{IMAGE.sha256}\n".encode(),
        "all.tar.xz": packed.getvalue(),
        "1.png.gz": gzip.compress(PICTURE),
        "1.png.bz2": bz2.compress(PICTURE),
        "1.png.xz": lzma.compress(PICTURE),
    }
    for name, data in held.items():
        assert holds(IMAGE, written(tmp_path / name, data)), name
    for name, data in {"other.png": PICTURE[:-1], "empty": b"", "broken.zip": b"PK\x03\x04 no more", "broken.gz": b"\x1f\x8b no"}.items():
        assert not holds(IMAGE, written(tmp_path / name, data)), name
    assert not holds(IMAGE, tmp_path / "gone")
