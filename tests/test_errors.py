"""What no words show: the secrets in URLs."""

from __future__ import annotations

import pytest

from bccp.errors import BCCPError, shown, shown_url


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://me:secret@example.org:8/a%20b.zip?token=secret#x", "https://example.org:8/a%20b.zip"),
        ("https://secret@example.org:8/a", "https://example.org:8/a"),
        ("https://example.org/a b.zip?token=secret", "https://example.org/a b.zip"),
        ("https://example.org?mail=a@b&token=secret", "https://example.org"),
        ("postgresql+psycopg2://me:p@secret@db/runs", "postgresql+psycopg2://db/runs"),
        ("postgresql://me:/secret/?#@db:5/runs", "postgresql://db:5"),
        ("postgresql://me:sec/ret@db:5/runs", "postgresql://db:5"),
        ("postgresql://db/runs?user=a@b&password=secret", "postgresql://db/runs"),
        ("https://example.org:443/@scope/a@1.zip", "https://example.org:443/@scope/a@1.zip"),
        ("sqlite:////home/me@work/x.db", "sqlite:////home/me@work/x.db"),
        ("http://[::1]:5000/x", "http://[::1]:5000/x"),
    ],
)
def test_a_url_is_shown_without_its_secrets(url: str, expected: str) -> None:
    assert shown_url(url) == expected
    assert shown({"tracking": [url, 1]}) == {"tracking": [expected, 1]}


def test_an_error_shows_no_secret_of_the_urls_in_it() -> None:
    text = "data.path='https://me:secret@h/x?t=secret' (https://h/y?t=secret), https://me:secret@h/z: use another"
    assert str(BCCPError(text)) == "data.path='https://h/x' (https://h/y), https://h/z: use another"
