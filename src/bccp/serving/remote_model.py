"""A model that answers over HTTP: ``bccp predict --url``, so that a service's answers can be put beside the model's own."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from bccp.core.errors import BCCPError
from bccp.core.proxies import proxy_note
from bccp.core.redaction import first_line, redact_url

if TYPE_CHECKING:
    import requests

    from bccp.models.predictor import Answer

TOKEN_ENV = "BCCP_SERVE_TOKEN"  # nosec B105  the name alone
"""Environment variable with the token for a service."""

CHANNEL = "predict"
"""As which the service records what is asked."""

_OF_THE_IMAGE = frozenset({"empty", "not-an-image", "truncated", "bomb", "too-large"})
"""Problems that the next image need not have."""

_AT_ONCE = 8
_SECONDS = 60.0
_PATIENCE_SECONDS = 60.0
"""For which a service that is busy is asked again."""

_REMEDIES = {
    "unauthorised": f": set its serve token in the environment variable {TOKEN_ENV}",
    "forbidden": ": give its address under a name of serve.allowed_hosts",
}


class RemoteModel:
    """A service that answers as its model does.

    Parameters
    ----------
    url : str
        Its address.
    token : str
        Empty: none is sent.

    Raises
    ------
    BCCPError
        If the address is none.
    """

    def __init__(self, url: str, token: str) -> None:
        address = urlsplit(url)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise BCCPError(f"--url {url} is no address of a service: give one such as http://127.0.0.1:8000")
        self.url = url.rstrip("/")
        self._session = _session(token, direct=address.hostname in ("localhost", "127.0.0.1", "::1"))

    def answers(self, files: Sequence[bytes]) -> list[Answer]:
        """Answer for whole files, in their order; one that is no image gets a reason.

        Raises
        ------
        BCCPError
            If the service does not answer, or refuses whoever asks.
        """
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return list(pool.map(self._answer, files))

    def _answer(self, data: bytes) -> Answer:
        from bccp.models.predictor import Answer

        give_up = time.monotonic() + _PATIENCE_SECONDS
        while True:
            response = self._ask(data)
            said = self._document(response)
            if response.status_code == 200:
                return Answer(said["class"], said["probability"], said["top_3"], None)
            kind = str(said["type"]).rpartition("#")[2]
            if kind in _OF_THE_IMAGE:
                return Answer(None, None, None, str(said["detail"]))
            if kind != "busy" or time.monotonic() > give_up:
                raise BCCPError(f"the service {redact_url(self.url)} refuses ({said['detail']}){_REMEDIES.get(kind, '')}")
            time.sleep(1.0)

    def _ask(self, data: bytes) -> requests.Response:
        import requests

        try:
            return self._session.post(
                f"{self.url}/predict",
                params={"channel": CHANNEL},
                data=data,
                headers={"Content-Type": "image/unknown"},
                timeout=_SECONDS,
                allow_redirects=False,
            )
        except requests.RequestException as error:
            reason = f"{first_line(error)}{proxy_note(self.url)}"
            raise BCCPError(f"the service {redact_url(self.url)} does not answer ({reason}): start it with bccp serve") from error

    def _document(self, response: requests.Response) -> dict[str, Any]:
        try:
            said = response.json()
            known = {"class", "probability", "top_3"} if response.status_code == 200 else {"type", "detail"}
            if not known <= said.keys():
                raise ValueError
        except (ValueError, AttributeError) as error:
            status = response.status_code
            raise BCCPError(f"what answers at {redact_url(self.url)} is no bccp serve (status {status}): give its address") from error
        return dict(said)


def _session(token: str, *, direct: bool) -> requests.Session:
    import requests
    from requests.adapters import HTTPAdapter

    session = requests.Session()
    session.trust_env = not direct  # a proxy knows nothing of this machine's own services
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(pool_maxsize=_AT_ONCE))
    session.auth = _bearer(token)
    return session


def _bearer(token: str) -> Callable[[requests.PreparedRequest], requests.PreparedRequest]:
    """What sets the header; a user's netrc would take its place otherwise."""

    def authorize(request: requests.PreparedRequest) -> requests.PreparedRequest:
        if token:
            request.headers["Authorization"] = f"Bearer {token}"
        return request

    return authorize
