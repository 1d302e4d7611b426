"""Downloads: what is used again, what is told when a server fails, and that nothing half stands as if whole."""

from __future__ import annotations

import email.utils
import hashlib
import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import requests

from bccp.core.errors import BCCPError
from bccp.data import downloads
from bccp.data.downloads import Limits
from support.file_server import ID, Server


def limits(tmp_path: Path, **changes: Any) -> Limits:
    settings: dict[str, Any] = {"shown": "it", "cache": tmp_path / "cache", "refresh": False, "max_bytes": 1000}
    return Limits(**(settings | changes))


def fetched(url: str, how: Limits) -> bytes:
    with downloads.from_url(url, how) as path:
        return path.read_bytes()


def kept_files(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "cache").rglob("*") if path.suffix != ".lock"]


DATE = email.utils.formatdate(0, usegmt=True)


@pytest.mark.parametrize("headers", [{"ETag": '"v1"'}, {"Last-Modified": DATE}, {"ETag": '"v1"', "Last-Modified": DATE}])
@pytest.mark.parametrize("heeds", [True, False])
def test_a_download_is_used_again_while_the_server_says_it_is_the_same(
    server: Server, tmp_path: Path, headers: dict[str, str], heeds: bool
) -> None:
    server.bodies["/a.zip"], server.headers, server.heeds = b"first", headers, heeds
    assert fetched(server.url("/a.zip"), limits(tmp_path)) == b"first"
    server.bodies["/a.zip"] = b"other"  # same length, same headers: the copy in the cache is believed to be the same
    assert fetched(server.url("/a.zip"), limits(tmp_path)) == b"first"
    assert server.asked[-1] == ("GET", 304 if heeds else 200)
    assert fetched(server.url("/a.zip"), limits(tmp_path, refresh=True)) == b"other"
    server.bodies["/a.zip"], server.headers = b"third", {name: f"{value}2" for name, value in headers.items()}
    assert fetched(server.url("/a.zip"), limits(tmp_path)) == b"third"


def test_without_etag_and_date_a_url_is_downloaded_again(server: Server, tmp_path: Path) -> None:
    server.bodies["/a.zip"] = b"first"
    assert fetched(server.url("/a.zip"), limits(tmp_path)) == b"first"
    server.bodies["/a.zip"] = b"other"
    assert fetched(server.url("/a.zip"), limits(tmp_path)) == b"other"


def test_a_copy_with_the_wanted_checksum_needs_no_server(server: Server, tmp_path: Path) -> None:
    server.bodies["/a.zip"] = b"first"
    fetched(server.url("/a.zip"), limits(tmp_path))
    asked = len(server.asked)
    wanted = hashlib.sha256(b"first").hexdigest()
    assert fetched(server.url("/a.zip"), limits(tmp_path, sha256=wanted.upper())) == b"first"
    assert len(server.asked) == asked


def test_a_copy_whose_bytes_have_changed_is_downloaded_again(server: Server, tmp_path: Path) -> None:
    server.bodies["/a.zip"], server.headers = b"first", {"ETag": '"v1"'}
    with downloads.from_url(server.url("/a.zip"), limits(tmp_path)) as path:
        pass
    path.write_bytes(b"rotten")
    assert fetched(server.url("/a.zip"), limits(tmp_path)) == b"first"


def test_a_url_that_is_down_is_told_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(downloads, "PAUSE_SECONDS", 0)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/a.zip"
        for ask in (lambda: fetched(url, limits(tmp_path)), lambda: downloads.url_version(url, "it")):
            with pytest.raises(BCCPError, match=r"it cannot be fetched \(.*refused\): check the address and the network"):
                ask()
    assert kept_files(tmp_path) == []


def test_a_server_that_says_nothing_is_given_up(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "TIMEOUT_SECONDS", 0.1)
    server.mute.clear()
    with pytest.raises(BCCPError, match=r"(timed out|no answer)"):
        fetched(server.url("/a.zip"), limits(tmp_path))


def test_a_404_is_told_at_once(server: Server, tmp_path: Path) -> None:
    with pytest.raises(BCCPError, match=r"it cannot be fetched \(the server answers 404 Not Found\)"):
        fetched(server.url("/none.zip"), limits(tmp_path))
    assert server.asked == [("GET", 404)]
    assert kept_files(tmp_path) == []


def test_a_failing_server_is_asked_twice(server: Server, tmp_path: Path) -> None:
    server.bodies["/a.zip"], server.failures = b"first", [503]
    assert fetched(server.url("/a.zip"), limits(tmp_path)) == b"first"
    server.failures = [503, 503]
    with pytest.raises(BCCPError, match="answers 503"):
        fetched(server.url("/b.zip"), limits(tmp_path))


def test_a_body_that_breaks_off_is_told_and_not_kept(server: Server, tmp_path: Path) -> None:
    server.bodies["/a.zip"], server.headers, server.cut = b"0123456789", {"ETag": '"v1"'}, 4
    with pytest.raises(BCCPError, match="broke off after 6 of 10 bytes"):
        fetched(server.url("/a.zip"), limits(tmp_path))
    assert kept_files(tmp_path) == []
    server.cut = 0
    assert fetched(server.url("/a.zip"), limits(tmp_path)) == b"0123456789"


@pytest.mark.parametrize("declares", [True, False])
def test_a_body_over_the_limit_is_refused_by_its_declared_and_its_actual_size(server: Server, tmp_path: Path, declares: bool) -> None:
    server.bodies["/a.zip"], server.declares, server.cut = bytes(1001), declares, 1001 if declares else 0
    with pytest.raises(BCCPError, match=r"holds more than data\.max_bytes=1000 bytes"):
        fetched(server.url("/a.zip"), limits(tmp_path))
    assert kept_files(tmp_path) == []


def test_what_a_killed_process_left_is_cleared_away(server: Server, tmp_path: Path) -> None:
    server.bodies["/a.zip"] = b"first"
    with downloads.from_url(server.url("/a.zip"), limits(tmp_path)) as path:
        name = path.name
    (tmp_path / "cache" / f"{name}.part").mkdir()
    (tmp_path / "cache" / f"{name}.part/file").write_bytes(b"fir")
    assert fetched(server.url("/a.zip"), limits(tmp_path)) == b"first"
    assert {p.name for p in kept_files(tmp_path)} == {name, f"{name}.json"}


@pytest.mark.parametrize("no_head", [True, False])
def test_the_version_of_a_url_is_its_etag_or_its_date_and_length(server: Server, no_head: bool) -> None:
    server.bodies["/a.zip"], server.no_head = b"first", no_head
    url = server.url("/a.zip")
    assert downloads.url_version(url, "it") is None
    server.headers = {"Last-Modified": DATE}
    assert downloads.url_version(url, "it") == f"date {DATE} length 5"
    server.headers = {"Last-Modified": DATE, "ETag": '"v1"'}
    assert downloads.url_version(url, "it") == 'etag "v1"'


def test_a_url_with_spaces_and_umlauts_is_understood(server: Server, tmp_path: Path) -> None:
    server.bodies["/gro%C3%9F%20e.zip"] = b"first"
    assert fetched(server.url("/groß e.zip"), limits(tmp_path)) == b"first"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (ID, None),
        (f"https://drive.google.com/file/d/{ID}/view?usp=sharing", "file"),
        (f"https://drive.google.com/uc?export=download&id={ID}", "file"),
        (f"https://drive.google.com/drive/folders/{ID}?usp=sharing", "folder"),
        (f"https://drive.google.com/drive/u/0/folders/{ID}", "folder"),
    ],
)
def test_ids_and_links_of_google_drive_are_understood(text: str, kind: str | None) -> None:
    assert downloads.drive_id(text) == (ID, kind)


@pytest.mark.parametrize("text", ["", "a b", "https://example.org/a.zip", "../x"])
def test_what_is_no_drive_id_is_refused(text: str) -> None:
    with pytest.raises(BCCPError, match="is no Google Drive id"):
        downloads.drive_id(text)


def test_a_drive_file_is_kept_until_it_is_refreshed(drive: dict[str, Any], tmp_path: Path) -> None:
    for content, refresh, expected in ((b"one", False, b"one"), (b"two", False, b"one"), (b"two", True, b"two")):
        drive["holds"] = content
        with downloads.from_drive(ID, limits(tmp_path, refresh=refresh)) as path:
            assert path.read_bytes() == expected
    assert drive["asked"] == ["file", "file"]


def test_an_id_alone_may_be_a_folders(drive: dict[str, Any], tmp_path: Path) -> None:
    drive["holds"] = {"cat/1.png": b"1"}
    with downloads.from_drive(ID, limits(tmp_path)) as path:
        assert (path / "cat/1.png").read_bytes() == b"1"
    with downloads.from_drive(ID, limits(tmp_path)) as path:
        assert path.is_dir()
    assert drive["asked"] == ["file", "folder"]


def test_a_drive_that_cannot_be_reached_is_told_in_one_sentence(drive: dict[str, Any], tmp_path: Path) -> None:
    drive["holds"] = requests.ConnectionError("no route\nto host")
    with (
        pytest.raises(BCCPError, match=r"it cannot be fetched \(ConnectionError: no route to host\): share it with anyone"),
        downloads.from_drive(ID, limits(tmp_path)),
    ):
        pass
    assert drive["asked"] == ["file"]
    assert kept_files(tmp_path) == []


def test_what_a_library_says_is_shortened_and_shown_without_secrets(drive: dict[str, Any], tmp_path: Path) -> None:
    told = "HTTPSConnectionPool(host='h.org', port=443): Max retries exceeded with url: /a?key=secret (Caused by ...)"
    for text, said in ((told, "no connection to h.org"), ("no https://me:secret@h.org/a?key=secret there", "no https://h.org/a there")):
        drive["holds"] = requests.ConnectionError(text)
        with (
            pytest.raises(BCCPError, match=rf"it cannot be fetched \(ConnectionError: {said}\): share"),
            downloads.from_drive(ID, limits(tmp_path)),
        ):
            pass


def test_a_drive_file_over_the_limit_is_refused(drive: dict[str, Any], tmp_path: Path) -> None:
    drive["holds"] = bytes(1001)
    with pytest.raises(BCCPError, match=r"data\.max_bytes=1000"), downloads.from_drive(ID, limits(tmp_path)):
        pass


def test_kaggle_gets_keys_from_the_environment_only_and_keeps_its_files_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kagglehub = pytest.importorskip("kagglehub")
    before = dict(os.environ)
    seen: dict[str, str] = {}

    def dataset_download(handle: str, *, force_download: bool) -> str:
        seen.update(os.environ, handle=handle, force=str(force_download))
        return str(tmp_path)

    monkeypatch.setattr(kagglehub, "dataset_download", dataset_download)
    with downloads.from_kaggle("me/data/versions/3", limits(tmp_path, refresh=True)) as folder:
        assert folder == tmp_path
    assert (seen["handle"], seen["force"], seen["KAGGLEHUB_CACHE"]) == ("me/data/versions/3", "True", str(tmp_path / "cache/kaggle"))
    assert seen["HOME"] == seen["KAGGLE_CONFIG_DIR"] != before.get("HOME")
    assert dict(os.environ) == before


def test_a_kaggle_that_cannot_be_reached_is_told_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kagglehub = pytest.importorskip("kagglehub")

    def dataset_download(handle: str, *, force_download: bool) -> str:
        raise requests.ConnectionError("unreachable")

    monkeypatch.setattr(kagglehub, "dataset_download", dataset_download)
    with pytest.raises(BCCPError, match=r"\(ConnectionError: unreachable\): .*KAGGLE_KEY"), downloads.from_kaggle("a/b", limits(tmp_path)):
        pass


def test_kaggle_handles_are_checked() -> None:
    assert downloads.names_version("owner/data-set/versions/12")
    assert not downloads.names_version("owner/data_set")
    for wrong in ("owner", "a/b/c", "a/b/versions/x", "https://www.kaggle.com/datasets/a/b", "../b c"):
        with pytest.raises(BCCPError, match="is no Kaggle handle"):
            downloads.names_version(wrong)


def test_an_fsspec_file_is_copied_again_when_its_version_changes(memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[str] = []
    plain = type(memory).open

    def watched(self: Any, path: str, mode: str = "rb", **options: Any) -> Any:
        if mode == "rb":
            reads.append(path)
        return plain(self, path, mode, **options)

    monkeypatch.setattr(type(memory), "open", watched)
    for content in (b"first", None, b"other"):
        if content:
            memory.pipe("/bucket/a.zip", content)
        with downloads.from_fsspec("memory://bucket/a.zip", limits(tmp_path)) as path:
            assert path.read_bytes() == (content or b"first")
    assert reads == ["/bucket/a.zip", "/bucket/a.zip"]


def test_an_fsspec_folder_is_listed_and_streamed(memory: Any) -> None:
    memory.pipe({"/bucket/w/cat/1.png": b"1", "/bucket/w/dog/2.png": b"22", "/bucket/w/.hidden": b""})
    remote = downloads.open_remote("memory://bucket/w", "it")
    listing = remote.listing("it", 1000)
    assert [(file.name, file.size, file.open().read()) for file in listing.files] == [("cat/1.png", 1, b"1"), ("dog/2.png", 2, b"22")]
    assert listing.left_out == 1
    before = remote.version
    assert downloads.open_remote("memory://bucket/w", "it").version == before
    memory.pipe("/bucket/w/cat/1.png", b"9")
    assert downloads.open_remote("memory://bucket/w", "it").version != before


def test_an_fsspec_file_over_the_limit_is_refused(memory: Any, tmp_path: Path) -> None:
    memory.pipe("/bucket/a.zip", bytes(1001))
    with pytest.raises(BCCPError, match=r"data\.max_bytes=1000"), downloads.from_fsspec("memory://bucket/a.zip", limits(tmp_path)):
        pass
    assert kept_files(tmp_path) == []


@pytest.mark.parametrize(("url", "said"), [("memory://bucket/none", "FileNotFoundError"), ("gopher://x/y", "gopher")])
def test_an_fsspec_url_that_leads_nowhere_is_told_in_one_sentence(url: str, said: str) -> None:
    with pytest.raises(BCCPError, match=f"it cannot be fetched .*{said}.*: check the URL"):
        downloads.open_remote(url, "it")


def test_what_is_noted_beside_a_download_holds_no_url(server: Server, tmp_path: Path) -> None:
    server.bodies["/a.zip"] = b"first"
    fetched(server.url("/a.zip") + "?token=secret", limits(tmp_path))
    notes = [path for path in kept_files(tmp_path) if path.suffix == ".json"]
    assert len(notes) == 1
    assert "secret" not in notes[0].read_text()
    assert json.loads(notes[0].read_text())["sha256"] == hashlib.sha256(b"first").hexdigest()
