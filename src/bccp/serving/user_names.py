"""Users under the names that the store knows them by: hashes with a secret key, as plain hashes of chat ids are reversed in hours."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets

from bccp.core.errors import BCCPError
from bccp.core.home import home

_LEAST_CHARACTERS = 16


def hashed(user: str, key: bytes) -> str:
    """Hash a user's name with HMAC-SHA256; 64 hex digits."""
    return hmac.digest(key, user.encode("utf-8", "surrogatepass"), hashlib.sha256).hex()


def user_key(env_name: str) -> bytes:
    """Return the key of :func:`hashed`: the environment's, else one that is made once under the home.

    Parameters
    ----------
    env_name : str
        Environment variable that may hold it.

    Returns
    -------
    bytes

    Raises
    ------
    BCCPError
        If it is too short, or can be neither read nor made.
    """
    given = os.environ.get(env_name, "")
    if given:
        if len(given) < _LEAST_CHARACTERS:
            raise BCCPError(
                f"{env_name} is shorter than {_LEAST_CHARACTERS} characters, so that users' names could be guessed: make it longer"
            )
        return given.encode("utf-8", "surrogateescape")
    path = home() / "serving" / "user.key"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            temporary = path.with_name(f"user.key.{secrets.token_hex(8)}")
            with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
                stream.write(secrets.token_bytes(32))
                os.fsync(stream.fileno())
            try:
                os.link(temporary, path)  # whole, and only where another process was not first
            except FileExistsError:
                pass
            finally:
                temporary.unlink()
        key = path.read_bytes()
    except OSError as error:
        raise BCCPError(f"the key of users' names {path} cannot be read or made ({error.strerror}): set {env_name}") from error
    if len(key) < _LEAST_CHARACTERS:
        raise BCCPError(f"the key of users' names {path} is too short: restore it, or delete it, which makes known users new ones")
    return key
