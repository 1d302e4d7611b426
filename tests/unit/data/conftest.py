"""Where downloads come from: a server of files, and a Google Drive."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bccp.data import downloads
from support.file_server import Server


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(downloads, "PAUSE_SECONDS", 0)
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,))
        thread.start()
        yield running
        running.mute.set()
        running.shutdown()
        thread.join()


@pytest.fixture
def drive(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A Google Drive that holds what a test puts into it: bytes are a file, a dict is a folder, an exception is raised."""
    gdown = pytest.importorskip("gdown")
    state: dict[str, Any] = {"holds": None, "asked": []}

    def download(*, id: str, output: str, progress: Any, **options: Any) -> str:
        state["asked"].append("file")
        assert options["use_cookies"] is False
        assert options["timeout"] == downloads.TIMEOUT_SECONDS
        if isinstance(state["holds"], Exception):
            raise state["holds"]
        if not isinstance(state["holds"], bytes):
            raise gdown.DownloadError("no such file")
        progress(len(state["holds"]), None)
        Path(output).write_bytes(state["holds"])
        return output

    def download_folder(*, id: str, output: str, **options: Any) -> list[str]:
        state["asked"].append("folder")
        if not isinstance(state["holds"], dict):
            raise gdown.DownloadError("no such folder")
        for name, content in state["holds"].items():
            (Path(output) / name).parent.mkdir(parents=True, exist_ok=True)
            (Path(output) / name).write_bytes(content)
        return []

    monkeypatch.setattr(gdown, "download", download)
    monkeypatch.setattr(gdown, "download_folder", download_folder)
    return state
