"""Roles by bearer token, and refusal of what browsers send on another page's behalf.

Two tokens come from the environment: that of those who predict and vote, and that of those who audit and see images. A service that only
this machine reaches may do without the first; then anybody on it predicts and votes. Without the second nobody audits.

A web page of somebody else cannot make a reader's browser use the service: unsafe methods need a Host that is the service's own (a name
that was rebound to this machine's address is none), the same origin where a browser names one, and a content type for which a browser
would have asked first, which no answer ever allows.
"""

from __future__ import annotations

import functools
import ipaddress
import os
import socket
from collections.abc import Iterable
from enum import IntEnum
from hmac import compare_digest
from urllib.parse import urlsplit

from bccp.core.config_schema import Serve
from bccp.core.errors import BCCPError
from bccp.serving.http.problems import ProblemError

MIN_TOKEN_CHARACTERS = 16
"""A shorter token could be guessed."""

UNGUARDED = frozenset({"/healthz", "/readyz", "/metrics", "/ping", "/health", "/version"})
"""What supervisors and Prometheus ask for under any name of the machine."""


class Role(IntEnum):
    """The right of a caller."""

    NOBODY = 0
    SERVE = 1
    REVIEW = 2


class Access:
    """Tokens and names of a service.

    Parameters
    ----------
    settings : Serve

    Raises
    ------
    BCCPError
        A token that is too short, or two that are equal, or an address that other machines reach and no token.
    """

    def __init__(self, settings: Serve) -> None:
        self.token_env, self.review_token_env = settings.token_env, settings.review_token_env
        self._serve, self._review = _token(settings.token_env), _token(settings.review_token_env)
        if self._serve and self._serve == self._review:
            raise BCCPError(f"{settings.token_env} and {settings.review_token_env} are the same token: give each role its own")
        self.loopback = is_loopback(settings.host)
        if not self.loopback and not self._serve:
            raise BCCPError(
                f"serve.host={settings.host} can be reached from other machines: set a token of {MIN_TOKEN_CHARACTERS} characters or more "
                f"in the environment variable {settings.token_env}, or leave serve.host=127.0.0.1"
            )
        self._hosts = {"localhost", "127.0.0.1", "::1", *(_bare(name) for name in (settings.host, *settings.allowed_hosts))}
        self._is_own = functools.lru_cache(256)(self._is_own_host)

    @property
    def asks_for_token(self) -> bool:
        """True where nobody predicts or votes without a token."""
        return self._serve is not None

    def role(self, authorization: bytes | None) -> Role:
        """Return the role that a header Authorization gives.

        Raises
        ------
        ProblemError
            ``unauthorised``: a token that is neither.
        """
        if authorization is None:
            return Role.NOBODY if self._serve else Role.SERVE
        scheme, _, token = authorization.partition(b" ")
        token = token.strip()
        if scheme.lower() == b"bearer":
            # both are compared, whichever fits
            serve = self._serve is not None and compare_digest(token, self._serve)
            review = self._review is not None and compare_digest(token, self._review)
            if review:
                return Role.REVIEW
            if serve:
                return Role.SERVE
        raise unauthorised("the token in Authorization is not one of this service")

    def expect(self, role: Role, wanted: Role) -> None:
        """Refuse a role below the one that is wanted.

        Raises
        ------
        ProblemError
            ``unauthorised``, or ``forbidden`` where the caller has a token of the other role.
        """
        if role >= wanted:
            return
        name = self.review_token_env if wanted == Role.REVIEW else self.token_env
        if wanted == Role.REVIEW and self._review is None:
            raise unauthorised(f"nobody may do this: the service was started without a token in {name}")
        if role == Role.SERVE and self._serve is not None:
            raise ProblemError("forbidden", f"this needs the token of {name}")
        raise unauthorised(f"send Authorization: Bearer TOKEN, with the token of {name}")

    def expect_host(self, host: bytes | None) -> None:
        """Refuse a request under a name that is not the service's.

        Raises
        ------
        ProblemError
            ``forbidden``
        """
        if self._is_own(host):
            return
        name = _bare(host.decode("latin-1")) if host else ""
        raise ProblemError(
            "forbidden", f"the header Host names {name[:100]!r}: add it to serve.allowed_hosts if it is a name of this service"
        )

    def _is_own_host(self, host: bytes | None) -> bool:
        name = _bare(host.decode("latin-1")) if host else ""
        return name in self._hosts or (not self.loopback and _is_address(name))  # an address cannot be rebound

    def expect_same_origin(self, headers: dict[bytes, bytes]) -> None:
        """Refuse what a browser sends on behalf of another page.

        Raises
        ------
        ProblemError
            ``forbidden``
        """
        site, origin = headers.get(b"sec-fetch-site"), headers.get(b"origin")
        if site is not None and site not in (b"same-origin", b"none"):
            raise ProblemError("forbidden", "a page of another site has sent this: only the service's own pages may")
        if origin is not None and not _same(origin, headers.get(b"host", b"")):
            raise ProblemError(
                "forbidden", f"the page at {origin[:100].decode('latin-1')!r} has sent this: only the service's own pages may"
            )


def unauthorised(detail: str) -> ProblemError:
    """Return the problem of a missing or wrong token."""
    return ProblemError("unauthorised", detail, headers={"WWW-Authenticate": "Bearer"})


def expect_content_type(content_type: str, taken: Iterable[str]) -> None:
    """Refuse a content type that is not taken; ``image/*`` stands for all images.

    Parameters
    ----------
    content_type : str
        In lower case, without parameters.
    taken : iterable of str

    Raises
    ------
    ProblemError
        ``type``
    """
    if content_type in taken or ("image/*" in taken and content_type.startswith("image/") and len(content_type) > len("image/")):
        return
    given = content_type[:100] or "none"
    wanted = ", ".join(taken)
    raise ProblemError("type", f"the content type is {given}: send one of {wanted} in Content-Type", headers={"Accept": wanted})


def is_loopback(host: str) -> bool:
    """Return True for a name or address that only this machine reaches; one that means nothing is refused later, when it is bound to."""
    try:
        found = {str(address[4][0]).partition("%")[0] for address in socket.getaddrinfo(host, None)} if host else set()
    except OSError:
        return False
    return bool(found) and all(ipaddress.ip_address(address).is_loopback for address in found)


def _token(name: str) -> bytes | None:
    """A token from the environment; None where the variable is unset or empty."""
    text = os.environ.get(name, "").strip()
    if not text:
        return None
    if not text.isascii() or not text.isprintable() or " " in text:
        raise BCCPError(f"the token in {name} has letters that no HTTP header can have: use ASCII letters and digits")
    if len(text) < MIN_TOKEN_CHARACTERS:
        raise BCCPError(
            f"the token in {name} has {len(text)} characters: use {MIN_TOKEN_CHARACTERS} or more, such as those of `openssl rand -hex 32`"
        )
    return text.encode()


def _bare(host: str) -> str:
    """The name or address of a Host, without port and brackets, in lower case."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host if host.count(":") > 1 else host.partition(":")[0].rstrip(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _same(origin: bytes, host: bytes) -> bool:
    try:
        given = urlsplit(origin.decode("latin-1"))
    except ValueError:
        return False
    return given.scheme in ("http", "https") and given.netloc.lower() == host.decode("latin-1").lower()
