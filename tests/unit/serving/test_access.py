"""Roles, and what browsers send on another page's behalf."""

from __future__ import annotations

import pytest

from bccp.core.errors import BCCPError
from bccp.serving.http.access import Access, Role, expect_content_type, is_loopback
from bccp.serving.http.problems import ProblemError
from support.serving import serve_settings

SERVE, REVIEW = "s" * 16, "r" * 20


@pytest.fixture
def tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BCCP_SERVE_TOKEN", SERVE)
    monkeypatch.setenv("BCCP_REVIEW_TOKEN", REVIEW)


def test_each_token_gives_its_role_and_a_wrong_one_none(tokens: None) -> None:
    access = Access(serve_settings())
    assert access.role(None) == Role.NOBODY
    assert access.role(f"Bearer {SERVE}".encode()) == access.role(f"bearer  {SERVE}".encode()) == Role.SERVE
    assert access.role(f"Bearer {REVIEW}".encode()) == Role.REVIEW
    for wrong in (b"Bearer ", b"Bearer " + SERVE[:-1].encode(), f"Basic {SERVE}".encode(), SERVE.encode(), "Bearer ü".encode(), b""):
        with pytest.raises(ProblemError) as refused:
            access.role(wrong)
        assert (refused.value.status, refused.value.headers) == (401, {"WWW-Authenticate": "Bearer"})


def test_who_lacks_a_role_is_told_which_variable_holds_its_token(tokens: None, monkeypatch: pytest.MonkeyPatch) -> None:
    access = Access(serve_settings())
    access.expect(Role.REVIEW, Role.REVIEW)
    access.expect(Role.SERVE, Role.SERVE)
    with pytest.raises(ProblemError, match=r"forbidden.*BCCP_REVIEW_TOKEN"):
        access.expect(Role.SERVE, Role.REVIEW)
    with pytest.raises(ProblemError, match=r"unauthorised.*BCCP_SERVE_TOKEN"):
        access.expect(Role.NOBODY, Role.SERVE)
    monkeypatch.delenv("BCCP_SERVE_TOKEN")
    monkeypatch.delenv("BCCP_REVIEW_TOKEN")
    alone = Access(serve_settings())
    assert alone.role(None) == Role.SERVE
    with pytest.raises(ProblemError, match=r"unauthorised.*without a token in BCCP_REVIEW_TOKEN"):
        alone.expect(Role.SERVE, Role.REVIEW)
    with pytest.raises(ProblemError, match="unauthorised"):
        alone.role(b"Bearer something")  # no token is wrong; a wrong one is


@pytest.mark.parametrize(
    ("serve", "review", "host", "said"),
    [
        ("short", None, "127.0.0.1", "BCCP_SERVE_TOKEN has 5 characters: use 16 or more"),
        (SERVE, "x" * 15, "127.0.0.1", "BCCP_REVIEW_TOKEN has 15 characters"),
        ("geheim-schlüssel-1", None, "127.0.0.1", "no HTTP header can have"),
        (SERVE, SERVE, "127.0.0.1", "the same token: give each role its own"),
        (None, REVIEW, "0.0.0.0", "serve.host=0.0.0.0 can be reached from other machines: set a token"),
        (None, None, "::", "set a token"),
        (None, None, "no-such-host.invalid", "set a token"),
    ],
)
def test_an_unsafe_start_is_refused_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, serve: str | None, review: str | None, host: str, said: str
) -> None:
    for name, token in (("BCCP_SERVE_TOKEN", serve), ("BCCP_REVIEW_TOKEN", review)):
        monkeypatch.setenv(name, token or "")
    with pytest.raises(BCCPError, match=said) as refused:
        Access(serve_settings(host=host))
    assert all(token not in str(refused.value) for token in ("short", SERVE, REVIEW, "geheim"))


def test_hosts_are_loopbacks_names_and_those_that_are_allowed() -> None:
    access = Access(serve_settings(allowed_hosts=["bccp.example.org"]))
    for host in (b"localhost:8000", b"LOCALHOST", b"127.0.0.1:8000", b"[::1]:8000", b"bccp.example.org", b"bccp.example.org.:80"):
        access.expect_host(host)
    for host in (b"evil.example:8000", b"192.168.1.7:8000", b"", None, b"localhost.evil.example", b"127.0.0.1.evil.example", b"[", b"\xff"):
        with pytest.raises(ProblemError, match=r"forbidden.*serve\.allowed_hosts"):
            access.expect_host(host)


def test_a_service_that_other_machines_reach_answers_under_any_address_but_no_name(tokens: None) -> None:
    access = Access(serve_settings(host="0.0.0.0"))
    access.expect_host(b"192.168.1.7:8000")
    with pytest.raises(ProblemError, match="forbidden"):
        access.expect_host(b"evil.example:8000")


@pytest.mark.parametrize(
    "headers",
    [
        {b"origin": b"http://evil.example"},
        {b"origin": b"null"},
        {b"origin": b"http://127.0.0.1:8001"},
        {b"origin": b"http://[::1"},
        {b"sec-fetch-site": b"cross-site"},
        {b"sec-fetch-site": b"same-site"},
    ],
)
def test_another_pages_request_is_refused(headers: dict[bytes, bytes]) -> None:
    with pytest.raises(ProblemError, match="forbidden"):
        Access(serve_settings()).expect_same_origin({b"host": b"127.0.0.1:8000", **headers})


def test_own_pages_and_programs_are_served() -> None:
    access = Access(serve_settings())
    access.expect_same_origin({b"host": b"127.0.0.1:8000"})
    access.expect_same_origin({b"host": b"127.0.0.1:8000", b"origin": b"http://127.0.0.1:8000", b"sec-fetch-site": b"same-origin"})
    access.expect_same_origin({b"host": b"bccp.example.org", b"origin": b"https://BCCP.example.org", b"sec-fetch-site": b"none"})


def test_a_form_of_a_browser_is_no_content_type_of_ours() -> None:
    expect_content_type("image/x-anything", ("image/*",))
    for wrong in ("application/x-www-form-urlencoded", "text/plain", "", "image/"):
        with pytest.raises(ProblemError) as refused:
            expect_content_type(wrong, ("image/*", "application/json"))
        assert (refused.value.status, refused.value.headers) == (415, {"Accept": "image/*, application/json"})


def test_loopback_is_asked_of_the_system() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.8.9.1", "localhost", "::1")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "")))
