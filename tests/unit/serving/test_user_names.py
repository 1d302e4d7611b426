"""Users' names as keyed hashes."""

from __future__ import annotations

import hashlib
import hmac
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bccp.core.errors import BCCPError
from bccp.serving.user_names import hashed, user_key


def test_a_hash_is_hmac_sha256_and_another_key_gives_another_one() -> None:
    assert hashed("Zoë", b"key") == hmac.new(b"key", "Zoë".encode(), hashlib.sha256).hexdigest()
    assert hashed("Zoë", b"key") != hashed("Zoë", b"kez")
    assert len(hashed("\ud800", b"key")) == 64


def test_the_environment_s_key_comes_first_and_must_not_be_short(bare_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY", "0123456789abcdef")
    assert user_key("KEY") == b"0123456789abcdef"
    monkeypatch.setenv("KEY", "0123456789abcde")
    with pytest.raises(BCCPError, match="KEY is shorter than 16 characters, so that users' names could be guessed: make it longer"):
        user_key("KEY")
    assert not (bare_home / "serving").exists()


def test_a_key_of_the_home_is_made_once_for_its_owner_alone(bare_home: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(lambda _: user_key("KEY"), range(32)))

    assert len(keys) == 1
    assert len(keys.pop()) == 32
    assert [path.name for path in (bare_home / "serving").iterdir()] == ["user.key"]
    assert (bare_home / "serving" / "user.key").stat().st_mode & 0o777 == 0o600


def test_a_damaged_key_is_not_replaced(bare_home: Path) -> None:
    user_key("KEY")
    (bare_home / "serving" / "user.key").write_bytes(b"")

    with pytest.raises(BCCPError, match=r"user\.key is too short: restore it"):
        user_key("KEY")


def test_a_key_that_cannot_be_made_is_told_in_one_sentence(bare_home: Path) -> None:
    (bare_home / "serving").write_text("")

    with pytest.raises(BCCPError, match=r"user\.key cannot be read or made \(.*\): set KEY"):
        user_key("KEY")
