"""Proxies of the environment, as errors name them."""

from __future__ import annotations

import os
import urllib.request

import pytest

from bccp.core.errors import BCCPError
from bccp.core.proxies import proxy_note
from bccp.data import downloads


@pytest.fixture(autouse=True)
def none_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*os.environ]:
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


def test_the_proxy_of_a_urls_scheme_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    assert proxy_note("https://example.org/a") == ""
    monkeypatch.setenv("HTTPS_PROXY", "http://me:secret@127.0.0.1:9")
    assert proxy_note("https://example.org/a") == ", through the proxy http://127.0.0.1:9 of HTTPS_PROXY"
    assert proxy_note("http://example.org/a") == ""
    monkeypatch.setenv("all_proxy", "me:secret@127.0.0.1:8")
    assert proxy_note("http://example.org/a") == ", through the proxy 127.0.0.1:8 of all_proxy"
    monkeypatch.setenv("no_proxy", "example.org")
    assert proxy_note("https://example.org/a") == ""


def test_a_dead_proxy_is_named_where_an_archive_cannot_be_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "PAUSE_SECONDS", 0.0)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setattr(urllib.request, "_opener", None)  # an earlier test's knows the proxies of its own environment
    with pytest.raises(BCCPError, match=r"Connection refused, through the proxy http://127\.0\.0\.1:9 of HTTP_PROXY\): check the address"):
        downloads.url_version("http://example.org/a.zip", "data.path=http://example.org/a.zip")
