"""Passwords and keys in URLs are shown nowhere, and hidden from what others record."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from bccp.core.errors import BCCPError
from bccp.core.redaction import from_env_ref, redact, redact_url, to_env_ref


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
        ("http://me:secret@db:5000/#/experiments/1/runs/a9/artifacts/x.html", "http://db:5000/#/experiments/1/runs/a9/artifacts/x.html"),
        ("http://db/#/experiments/1?token=secret", "http://db/"),
        ("postgresql://me:sec/#/experiments/1@db/runs", "postgresql://db"),
    ],
)
def test_a_url_is_shown_without_its_secrets(url: str, expected: str) -> None:
    assert redact_url(url) == expected
    assert redact({"tracking": [url, 1]}) == {"tracking": [expected, 1]}


def test_an_error_shows_no_secret_of_the_urls_in_it() -> None:
    text = "data.path='https://me:secret@h/x?t=secret' (https://h/y?t=secret), https://me:secret@h/z: use another"
    assert str(BCCPError(text)) == "data.path='https://h/x' (https://h/y), https://h/z: use another"


@pytest.mark.parametrize(
    ("text", "secrets"),
    [
        ("data.path='https://me:a,b c@h/x.zip?token=1'", ["https://me:a,b c@h/x.zip?token=1"]),
        ("data.path=https://me:a@h/x,https://h/y,https://me:b@h/z", ["https://me:a@h/x", "https://me:b@h/z"]),
        ("https://h/a b.zip?token=1", ["https://h/a b.zip?token=1"]),
        ("data.path='https://me:${oc.env:PASSWORD}@h/x.zip'", []),
        ("tracking.mlflow_uri=http://127.0.0.1:5000", []),
    ],
)
def test_what_hydra_and_mlflow_record_refers_to_the_environment(text: str, secrets: list[str]) -> None:
    hidden = to_env_ref(text)
    assert not any(secret in hidden for secret in secrets)
    assert hidden.count("${oc.env:BCCP_SECRET_") == len(secrets)
    assert from_env_ref(hidden) == text
    if secrets:
        assert OmegaConf.create({"x": hidden})["x"] == text  # as Hydra reads it
