"""Archives and folders: what is taken, what is left out, and what is refused by its name."""

from __future__ import annotations

import io
import os
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from bccp.core.errors import BCCPError
from bccp.data import archives

LIMIT = 10_000_000
Extra = Callable[[tarfile.TarFile], None]


def make_zip(path: Path, names: Iterable[str | zipfile.ZipInfo], *, content: bytes = b"pixels") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, content)
    return path


def make_tar(path: Path, names: Iterable[str | tarfile.TarInfo], *, mode: str = "w", content: bytes = b"pixels") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name in names:
            member = tarfile.TarInfo(name) if isinstance(name, str) else name
            if member.isreg():
                member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


def zip_special(name: str, kind: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, (kind | 0o777) << 16
    return info


def contents(path: Path, max_bytes: int = LIMIT, zip_encoding: str | None = None) -> dict[str, bytes]:
    with archives.open_archive(path, "it", max_bytes, scratch=path.parent, zip_encoding=zip_encoding) as listing:
        return {file.name: b"".join(archives.read_chunks(file, "it")) for file in listing.finished()}


@pytest.mark.parametrize("name", ["../x.png", "a/../../x.png", "/etc/x.png", "C:/x.png", "..\\x.png", "\\x.png"])
def test_names_that_lead_out_of_an_archive_are_refused_by_name(tmp_path: Path, name: str) -> None:
    said = "absolute path" if name[0] in "/\\" or ":" in name else "leads out"
    for path in (make_zip(tmp_path / "a.zip", ["cat/1.png", name]), make_tar(tmp_path / "a.tar", ["cat/1.png", name])):
        with pytest.raises(BCCPError, match=f"it holds a member .*{said}.*x\\.png"):
            contents(path)
    assert {p.name for p in tmp_path.iterdir()} == {"a.zip", "a.tar"}


@pytest.mark.parametrize(
    ("kind", "said"), [(tarfile.SYMTYPE, "link"), (tarfile.LNKTYPE, "link"), (tarfile.CHRTYPE, "device"), (tarfile.FIFOTYPE, "device")]
)
@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_links_and_devices_in_a_tar_are_refused_by_name(tmp_path: Path, kind: bytes, said: str, mode: str) -> None:
    path = make_tar(tmp_path / "a.tar", ["cat/1.png", special("cat/odd.png", kind, "/etc/passwd")], mode=mode)
    with pytest.raises(BCCPError, match=f"it holds a {said}, 'cat/odd.png'"):
        contents(path)


@pytest.mark.parametrize(("kind", "said"), [(stat.S_IFLNK, "link"), (stat.S_IFCHR, "device"), (stat.S_IFIFO, "device")])
def test_links_and_devices_in_a_zip_are_refused_by_name(tmp_path: Path, kind: int, said: str) -> None:
    with pytest.raises(BCCPError, match=f"it holds a {said}, 'cat/odd.png'"):
        contents(make_zip(tmp_path / "a.zip", ["cat/1.png", zip_special("cat/odd.png", kind)]))


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_every_kind_of_tar_is_read_whatever_its_file_is_called(tmp_path: Path, mode: str) -> None:
    folder = tarfile.TarInfo("./dog")
    folder.type = tarfile.DIRTYPE
    assert contents(make_tar(tmp_path / "data", ["./cat/1.png", folder, "./dog/2.png"], mode=mode)) == {
        "cat/1.png": b"pixels",
        "dog/2.png": b"pixels",
    }


def test_an_archive_that_declares_too_much_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    zeros = bytes(50_000)
    for path in (make_zip(tmp_path / "a.zip", ["a/1", "b/2"], content=zeros), make_tar(tmp_path / "a.tar", ["a/1", "b/2"], content=zeros)):
        assert len(contents(path, 100_000)) == 2
        with pytest.raises(BCCPError, match=r"holds more than data\.max_bytes=99999"):
            contents(path, 99_999)


def test_a_compressed_tar_is_cut_off_where_it_really_grows_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_tar(tmp_path / "a.tar.gz", ["a/1.png"], mode="w:gz", content=bytes(5_000_000))
    written: list[int] = []
    plain = tempfile.TemporaryFile

    def watched(**options: object) -> object:
        stream = plain(**options)  # type: ignore[call-overload]

        class Watch(io.FileIO):
            def write(self, data: object, /) -> int:
                written.append(len(data))  # type: ignore[arg-type]
                return super().write(data)  # type: ignore[arg-type]

        copy = Watch(os.dup(stream.fileno()), "r+")
        stream.close()
        return copy

    monkeypatch.setattr(tempfile, "TemporaryFile", watched)
    with pytest.raises(BCCPError, match=r"data\.max_bytes=1000 "):
        contents(path, 1000)
    assert sum(written) <= 1000 + archives.CHUNK_BYTES


@pytest.mark.parametrize("kind", ["zip", "gz", "xz"])
def test_a_bomb_is_told_by_its_ratio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    zeros = bytes(3_000_000)
    path = tmp_path / "a"
    make_zip(path, ["a/1.png"], content=zeros) if kind == "zip" else make_tar(path, ["a/1.png"], mode=f"w:{kind}", content=zeros)
    assert contents(path) == {"a/1.png": zeros}  # too small to do harm
    monkeypatch.setattr(archives, "RATIO_FREE_BYTES", 2_000_000)
    with pytest.raises(BCCPError, match="over 500 times its size"):
        contents(path)


def test_a_forged_size_in_a_zip_gives_an_error_and_not_the_bomb(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", ["a/1.png"], content=bytes(100_000))
    forged = path.read_bytes().replace((100_000).to_bytes(4, "little"), (100).to_bytes(4, "little"))
    path.write_bytes(forged)
    with pytest.raises(BCCPError, match=r"'a/1\.png' cannot be read"):
        contents(path, 1000)


def test_a_tar_header_that_asks_for_gigabytes_of_memory_is_refused(tmp_path: Path) -> None:
    header = special("x", tarfile.XHDTYPE)
    header.size = 1 << 32
    path = tmp_path / "a.tar"
    path.write_bytes(header.tobuf() + bytes(10_240))
    with pytest.raises(BCCPError, match="impossible size"):
        contents(path)


def test_too_many_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_zip(tmp_path / "a.zip", ["a/1", "a/2", "a/.hidden"])
    assert len(contents(path)) == 2
    monkeypatch.setattr(archives, "MAX_FILES", 2)
    with pytest.raises(BCCPError, match="more than 2 files"):
        contents(path)


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", ["a/1.png"])
    raw = bytearray(path.read_bytes())
    raw[raw.index(b"PK\x03\x04") + 6] |= 1
    raw[raw.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(raw)
    with pytest.raises(BCCPError, match=r"encrypted \('a/1.png'\)"):
        contents(path)


@pytest.mark.parametrize("kind", ["a.zip", "a.tar", "a.tar.gz", "a.tar.bz2", "a.tar.xz"])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_an_archive_that_was_cut_off_is_refused(tmp_path: Path, kind: str, share: float) -> None:
    path, noise = tmp_path / kind, os.urandom(4000)
    names = [f"a/{n}.png" for n in range(5)]
    mode = "w:" + kind.rpartition(".")[2] if kind.count(".") == 2 else "w"
    make_zip(path, names, content=noise) if kind == "a.zip" else make_tar(path, names, mode=mode, content=noise)
    # a plain tar is padded with zeros, which are no loss
    size = 512 + 5 * (512 + 4096) if kind == "a.tar" else path.stat().st_size
    os.truncate(path, int(size * share))
    with pytest.raises(BCCPError, match="damaged or was cut off"):
        contents(path)


def test_a_tar_cut_off_between_two_members_is_refused(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "a.tar", ["a/1.png", "a/2.png"])
    os.truncate(path, 1024)
    with pytest.raises(BCCPError, match="no end of the tar file"):
        contents(path)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG" + bytes(1000), b"Rar!" + bytes(100), b"\x1f\x8bnonsense"])
def test_what_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(BCCPError, match=r"no archive|damaged"):
        contents(tmp_path / "a.zip")


def test_a_web_page_in_place_of_an_archive_is_called_so(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"\n<!DOCTYPE html><html>sign in</html>")
    with pytest.raises(BCCPError, match="is a web page and no archive"):
        contents(tmp_path / "a.zip")


def test_names_in_utf8_survive_also_where_the_zip_does_not_say_so(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", ["Größe  2/水.png", "b/1.png"])
    raw = bytearray(path.read_bytes())
    for magic, offset in ((b"PK\x03\x04", 7), (b"PK\x01\x02", 9)):
        raw[raw.index(magic) + offset] &= ~0x08  # the flag "names are in UTF-8"
    path.write_bytes(raw)
    assert set(contents(path)) == {"Größe  2/水.png", "b/1.png"}


def legacy_zip(path: Path, names: Iterable[str], encoding: str, *, extra: Callable[[bytes], bytes] = lambda _: b"") -> Path:
    """A zip file as older programs write it: names in a code page, and nothing that says which."""
    with zipfile.ZipFile(path, "w") as archive:
        for number, name in enumerate(names):
            raw = name.encode(encoding)
            info = zipfile.ZipInfo(chr(ord("A") + number) * len(raw))  # as long, and replaced below
            info.extra = extra(raw)
            archive.writestr(info, name.encode())
    content = path.read_bytes()
    for number, name in enumerate(names):
        raw = name.encode(encoding)
        placeholder = (chr(ord("A") + number) * len(raw)).encode()
        assert content.count(placeholder) == 2
        content = content.replace(placeholder, raw)
    path.write_bytes(content)
    return path


CODE_PAGES = {
    "cp932": ["\u8868\u7d19/1.png", "\u30bd\u30fc\u30b9/2.png", "\u8868/3.png", "\u732b/\uff71\uff72.png"],  # second bytes are 0x5C
    "gbk": ["\u82f9\u679c/\u56fe\u7247 (1).jpg", "\u8bda/2.jpg", "\u9999\u8549/\u56fe\u7247 (2).jpg"],
    "big5": ["\u8c93/1.png", "\u529f\u80fd/2.png", "\u8a31/3.png"],
    "cp949": ["\uc0ac\uacfc/1.png", "\ubc14\ub098\ub098/2.png"],
    "cp866": ["\u043a\u043e\u0448\u043a\u0430/1.png", "\u0421\u043e\u0431\u0430\u043a\u0430/\u0444\u043e\u0442\u043e 2.png"],
    "cp1251": ["\u043a\u043e\u0448\u043a\u0430/1.png", "\u0421\u043e\u0431\u0430\u043a\u0430/\u0444\u043e\u0442\u043e 2.png"],
    "cp1252": ["Gr\xf6\xdfe/B\xe4ume 1.png", "Caf\xe9/2.png"],
    "cp850": ["Gr\xf6\xdfe/B\xe4ume 1.png", "Caf\xe9/2.png"],
    "cp1250": ["ko\u010dka/1.png", "\u017e\xe1ba/2.png"],
    "cp852": ["\u0142\xf3d\u017a/1.png", "\u017c\xf3\u0142w/2.png"],
}


@pytest.mark.parametrize("encoding", CODE_PAGES)
def test_names_in_a_code_page_are_refused_with_a_guess_and_read_once_it_is_given(tmp_path: Path, encoding: str) -> None:
    path = legacy_zip(tmp_path / "a.zip", CODE_PAGES[encoding], encoding)
    with pytest.raises(BCCPError, match=rf"neither ASCII nor UTF-8.*look like {encoding} \('.*data\.zip_encoding={encoding} or another"):
        contents(path)
    found = contents(path, zip_encoding=encoding)
    assert found == {name: name.encode() for name in CODE_PAGES[encoding]}


def test_a_name_that_is_not_in_the_given_code_page_is_refused(tmp_path: Path) -> None:
    path = legacy_zip(tmp_path / "a.zip", ["Caf\xe9/1.png"], "cp1252")
    with pytest.raises(BCCPError, match=r"data\.zip_encoding=utf-8 cannot be that of it.*'Caf\\xe9/1\.png'"):
        contents(path, zip_encoding="utf-8")


def test_a_standard_stands_for_what_programs_make_of_it(tmp_path: Path) -> None:
    path = legacy_zip(tmp_path / "a.zip", ["\u2460\u9ad9/1.png"], "cp932")  # a circled digit, of Windows' Shift-JIS alone
    assert set(contents(path, zip_encoding="shift_jis")) == {"\u2460\u9ad9/1.png"}


def test_an_extra_field_with_the_name_in_unicode_wins(tmp_path: Path) -> None:
    name = "\u8868/1.png"

    def unicode_path(raw: bytes) -> bytes:
        body = b"\x01" + zlib.crc32(raw).to_bytes(4, "little") + name.encode()
        return b"\xfe\xca\x00\x00" + (0x7075).to_bytes(2, "little") + len(body).to_bytes(2, "little") + body

    path = legacy_zip(tmp_path / "a.zip", [name], "cp932", extra=unicode_path)
    assert set(contents(path)) == set(contents(path, zip_encoding="cp1252")) == {name}
    stale = legacy_zip(tmp_path / "b.zip", [name], "cp932", extra=lambda raw: unicode_path(raw + b"renamed since"))
    with pytest.raises(BCCPError, match="look like cp932"):
        contents(stale)


def test_odd_names_of_hidden_files_alone_stop_nothing_and_flagged_names_need_no_code_page(tmp_path: Path) -> None:
    path = legacy_zip(tmp_path / "a.zip", ["cat/1.png", "__MACOSX/\xe9.png"], "cp1252")
    assert set(contents(path)) == {"cat/1.png"}
    assert set(contents(make_zip(tmp_path / "b.zip", ["\u8868/1.png"]), zip_encoding="cp1252")) == {"\u8868/1.png"}


def test_backslashes_of_a_windows_zip_are_folders(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", ["cat/1.png", "dog/2.png"])
    path.write_bytes(path.read_bytes().replace(b"cat/", b"cat\\"))
    assert set(contents(path)) == {"cat/1.png", "dog/2.png"}


def test_hidden_files_are_left_out_and_counted_and_all_others_kept(tmp_path: Path) -> None:
    hidden = ["cat/.DS_Store", "__MACOSX/cat/._1.png", ".git/config", "cat/Thumbs.db", "desktop.ini"]
    hidden += ["@eaDir/1.jpg/SYNOPHOTO_THUMB_M.jpg", "cat/@eaDir/1.jpg", "cat/.@__thumb/s1001.jpg", "cat/deep/@__thumb/default1.jpg"]
    hidden += ["$RECYCLE.BIN/$R1.png", "$Recycle.bin/2.png", "lost+found/3.png", "cat/System Volume Information/4.png", "#recycle/5.png"]
    hidden += [".ipynb_checkpoints/1-checkpoint.png", "dog/.ipynb_checkpoints/2.png", "dog/__macosx/6.png", "@Recycle/7.png"]
    kept = ["cat/1.png", "cat/notes.txt", "cat/broken", "recycled/1.png", "eaDir/1.png"]
    with archives.open_archive(make_zip(tmp_path / "a.zip", [*hidden, *kept]), "it", LIMIT, scratch=tmp_path) as listing:
        assert [file.name for file in listing.files] == kept
        assert listing.left_out == len(hidden)
        assert listing.left_out_names["@eaDir"] == 2


def test_an_archive_of_hidden_files_only_is_empty(tmp_path: Path) -> None:
    with pytest.raises(BCCPError, match=r"it holds no files \(but 1 hidden or of a system\)"):
        contents(make_zip(tmp_path / "a.zip", ["cat/.DS_Store"]))


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BCCPError, match=r"two files named 'a/1\.png'"):
        contents(make_tar(tmp_path / "a.tar", ["a/1.png", "./a/1.png"]))
    with pytest.raises(BCCPError, match=r"two files named 'README\.txt'"):  # equal only after the wrapper is stripped
        contents(make_zip(tmp_path / "a.zip", ["README.txt", "w/README.txt", "w/a/1.png", "w/b/1.png"]))


@pytest.mark.parametrize(
    ("names", "stripped"),
    [
        (["w/a/1.png", "w/b/2.png"], ["a/1.png", "b/2.png"]),
        (["v/w/a/1.png", "v/w/b/2.png", "v/LICENSE"], ["a/1.png", "b/2.png", "LICENSE"]),
        (["w/a/1.png", "w/b/2.png", "w/cover.JPG"], None),  # a folder with images is a class
        (["a/1.png", "a/2.png"], None),
        (["a/notes", "a/more"], None),
        (["a/1.png", "b/2.png"], None),
        (["1.png", "w/a/1.png"], None),
        (["w/monday/a/1.png", "w/tuesday/1.png"], ["monday/a/1.png", "tuesday/1.png"]),
        (["w/monday/a/1.png", "w/monday/b/1.png"], ["monday/a/1.png", "monday/b/1.png"]),
        (["tuesday/a/1.png", "tuesday/b/1.png"], None),
    ],
)
def test_wrappers_are_stripped_and_nothing_else(names: list[str], stripped: list[str] | None) -> None:
    assert archives.strip_wrappers(names) == (names if stripped is None else stripped)


def test_a_subfolder_is_found_in_any_unicode_form(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", ["cafe\u0301/x/1.png", "cafe\u0301/y/2.png", "z/3.png"])
    with archives.open_archive(path, "it", LIMIT, scratch=tmp_path) as listing:
        assert [file.name for file in listing.finished("caf\u00e9")] == ["x/1.png", "y/2.png"]


def fill(folder: Path, names: Iterable[str]) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder


def test_a_systems_folder_that_cannot_be_read_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fill(tmp_path / "data", ["cat/1.png", "lost+found/x"])

    def walk(top: Path, onerror: Callable[[OSError], None]) -> Iterator[tuple[str, list[str], list[str]]]:
        yield str(top), ["cat", "lost+found"], []
        yield f"{top}/cat", [], ["1.png"]
        onerror(PermissionError(13, "Permission denied", f"{top}/{unreadable}"))

    monkeypatch.setattr(archives.os, "walk", walk)
    unreadable = "lost+found"
    listing = archives.list_folder(folder, "it", LIMIT)
    assert ([file.name for file in listing.files], listing.left_out_names) == (["cat/1.png"], {"lost+found": 1})
    unreadable = "dog"
    with pytest.raises(BCCPError, match=r"dog cannot be read \(Permission denied\)"):
        archives.list_folder(folder, "it", LIMIT)


def test_a_link_within_a_folder_is_followed(tmp_path: Path) -> None:
    folder = fill(tmp_path / "data", ["a/1.png", "b/2.png"])
    (folder / "b/3.png").symlink_to("../a/1.png")
    files = archives.list_folder(folder, "it", LIMIT).finished()
    assert {file.name: b"".join(archives.read_chunks(file, "it")) for file in files} == {
        "a/1.png": b"a/1.png",
        "b/2.png": b"b/2.png",
        "b/3.png": b"a/1.png",
    }


@pytest.mark.parametrize("target", ["outside", "outside/secret.png", "data/a", "nowhere", "data/b/odd", "../data"])
def test_a_link_out_of_a_folder_or_to_a_folder_is_refused_by_name(tmp_path: Path, target: str) -> None:
    folder = fill(tmp_path / "data", ["a/1.png", "b/2.png"])
    fill(tmp_path / "outside", ["secret.png"])
    (folder / "b/odd").symlink_to(tmp_path / target)
    with pytest.raises(BCCPError, match=r"it holds .*'b/odd'"):
        archives.list_folder(folder, "it", LIMIT)


def test_a_pipe_in_a_folder_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    folder = fill(tmp_path / "data", ["a/1.png"])
    os.mkfifo(folder / "a/pipe")
    with pytest.raises(BCCPError, match="'a/pipe', which is neither"):
        archives.list_folder(folder, "it", LIMIT)


@pytest.mark.parametrize("name", ["a/1\r.png", "a/1\n.png", b"a/\xff.png"])
def test_a_name_that_no_table_can_hold_is_refused(tmp_path: Path, name: str | bytes) -> None:
    with pytest.raises(BCCPError, match="rename it"):
        archives.list_folder(
            fill(tmp_path / "data", [os.fsdecode(name)]) if isinstance(name, str) else raw_name(tmp_path, name), "it", LIMIT
        )


def raw_name(folder: Path, name: bytes) -> Path:
    (folder / "data/a").mkdir(parents=True)
    with open(os.fsencode(folder / "data") + b"/" + name, "wb"):  # noqa: PTH123 - a name that is no text
        return folder / "data"


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    folder = fill(tmp_path / "data", ["a/1.png"])
    files = archives.list_folder(folder, "it", LIMIT).finished()
    (folder / "a/1.png").write_bytes(b"longer than before")
    with pytest.raises(BCCPError, match=r"'a/1\.png' has more bytes than the 7 declared"):
        list(archives.read_chunks(files[0], "it"))
    (folder / "a/1.png").write_bytes(b"")
    with pytest.raises(BCCPError, match=r"'a/1\.png' has fewer bytes"):
        list(archives.read_chunks(files[0], "it"))
