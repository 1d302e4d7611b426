"""Problems of the service over HTTP (RFC 9457): each kind with its status, and the document that is sent.

References
----------
.. [1] M. Nottingham, E. Wilde, S. Dalal: Problem Details for HTTP APIs, RFC 9457, 2023.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from starlette.responses import Response

from bccp.serving.http import json_text

MEDIA_TYPE = "application/problem+json"


class Kind(NamedTuple):
    """A kind of problem.

    Attributes
    ----------
    status : int
        Of the response.
    title : str
        The same for all problems of the kind.
    remedy : str
        A sentence for the documentation.
    """

    status: int
    title: str
    remedy: str


KINDS = {
    "empty": Kind(422, "No bytes", "Send the bytes of an image file."),
    "not-an-image": Kind(422, "Not an image", "Send an image file of a format that is read; nothing is fetched from an address."),
    "truncated": Kind(422, "Truncated or damaged image", "Send the whole file."),
    "bomb": Kind(422, "Too many pixels", "Send an image of at most `serve.max_pixels` pixels."),
    "invalid": Kind(422, "Body or parameter that cannot be used", "Send what the endpoint describes."),
    "image-path": Kind(422, "No such file", "Name a regular file below `serve.image_root`."),
    "unknown-label": Kind(422, "Unknown class", "Use a class of `GET /labels`."),
    "idempotency-key-reused": Kind(422, "Idempotency key used for something else", "Use a new key for other feedback."),
    "unauthorised": Kind(401, "Token missing or wrong", "Send `Authorization: Bearer TOKEN`."),
    "forbidden": Kind(403, "Not for this caller", "Call from the service's own pages or from a program, with the token that is asked for."),
    "not-found": Kind(404, "No such page", "See `GET /docs` for what there is."),
    "unknown-request": Kind(404, "Unknown prediction", "Use a `request_id` that a prediction was answered with."),
    "unknown-image": Kind(404, "Unknown image", "Use an `image_sha256` that a prediction was answered with."),
    "method": Kind(405, "Method not allowed", "Use a method of the header Allow."),
    "too-large": Kind(413, "Body too large", "Send less than `serve.max_bytes` bytes, and at most `serve.max_files` images, a request."),
    "type": Kind(415, "Content type that is not taken", "Send image/*, multipart/form-data or application/json."),
    "rate-limited": Kind(429, "Too many votes", "Wait as many seconds as Retry-After says."),
    "internal": Kind(500, "Fault in the service", "Report it; the service's log has more."),
    "busy": Kind(503, "Busy", "Try again after as many seconds as Retry-After says."),
    "no-model": Kind(503, "No model", "Train and promote a model, or start the service with another `serve.model`."),
    "store-unavailable": Kind(503, "Store unavailable", "Send the feedback again, with the same Idempotency-Key."),
    "deadline": Kind(504, "Too late", "Try again, with fewer or smaller images."),
}
"""All kinds of problems, by the name that ends their ``type``."""


class ProblemError(Exception):
    """A request that is refused.

    Parameters
    ----------
    kind : str
        One of :data:`KINDS`.
    detail : str
        This case: culprit and remedy.
    headers : mapping of str to str
        Further headers of the response.
    members : object
        Further members of the document.
    """

    def __init__(self, kind: str, detail: str, *, headers: Mapping[str, str] | None = None, **members: Any) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind, self.detail, self.headers, self.members = kind, detail, dict(headers or {}), members

    @property
    def status(self) -> int:
        """The response's status."""
        return KINDS[self.kind].status

    def document(self) -> dict[str, Any]:
        """Return what is sent: ``type, title, status, detail`` and further members."""
        kind = KINDS[self.kind]
        return {"type": f"/docs#{self.kind}", "title": kind.title, "status": kind.status, "detail": self.detail, **self.members}

    def response(self) -> Response:
        """Return the response."""
        return Response(json_text.encode(self.document()), self.status, {**json_text.HEADERS, **self.headers}, MEDIA_TYPE)


def busy(detail: str) -> ProblemError:
    """Return the problem of a service that has too much to do at the moment."""
    return ProblemError("busy", detail, headers={"Retry-After": "1"})
