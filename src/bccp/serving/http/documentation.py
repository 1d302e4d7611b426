"""``/openapi.json``: the service described as OpenAPI 3.1, with examples in curl that work when they are pasted.

The description is that of the running service: its limits, the classes of its model, and which tokens it asks for.

References
----------
.. [1] https://spec.openapis.org/oas/v3.1.1.html
"""

from __future__ import annotations

import base64
import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

from starlette.responses import Response

from bccp.serving.http import json_text
from bccp.serving.http.bodies import JSON, MULTIPART
from bccp.serving.http.incoming import Incoming
from bccp.serving.http.parts import Parts
from bccp.serving.http.problems import KINDS, MEDIA_TYPE

EXAMPLE = (
    "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQAQAAAAA3iMLMAAAALUlEQVR42mNgYGBgPsDEosDEIcDM/pFZ9BMTAwMK"
    "+mTBwP+B6ccHpj8PGBgYAJ5vCQZJVjplAAAAAElFTkSuQmCC"
)
"""A small PNG file in base64, which examples send."""

SAMPLES = "x-codeSamples"
"""Where an operation's examples stand; several tools show them."""

_MAX_CLASSES = 100
"""More are not listed."""

_ALWAYS = ("forbidden", "internal")
_BODY = ("too-large", "type", "invalid", "deadline", "busy")
_IMAGE = ("empty", "not-an-image", "truncated", "bomb")
_PRINTABLE = r"^[^\u0000-\u001f\u007f]*[^\u0000-\u0020\u007f][^\u0000-\u001f\u007f]*$"
_TEXT = {"type": "string", "minLength": 1, "maxLength": 200, "pattern": _PRINTABLE}
_CHANNEL = {"type": "string", "pattern": "^[a-z0-9][a-z0-9_.-]{0,31}$"}
_BASE64 = {"type": "string", "contentEncoding": "base64"}
_SHA256 = {"type": "string", "pattern": "^[0-9A-Fa-f]{64}$"}


async def openapi_document(parts: Parts, incoming: Incoming) -> Response:
    """Answer with the description."""
    return json_text.respond(openapi(parts, address_of(incoming)))


def address_of(incoming: Incoming) -> str:
    """Return the address under which the service was asked."""
    return f"http://{incoming.headers.get(b'host', b'127.0.0.1').decode('latin-1')}"


def openapi(parts: Parts, address: str) -> dict[str, Any]:
    """Describe the service.

    Parameters
    ----------
    parts : Parts
    address : str
        Of the service, for the examples.

    Returns
    -------
    dict
        An OpenAPI document.
    """
    return _Description(parts, address).document()


class _Description:
    """The parts of the description that depend on the service."""

    def __init__(self, parts: Parts, address: str) -> None:
        self.settings, self.access, self.address = parts.settings, parts.access, address
        model = parts.holder.current
        self.classes = [] if model is None else list(model.classes)

    def document(self) -> dict[str, Any]:
        """Return the whole document."""
        return {
            "openapi": "3.1.0",
            "info": {
                "title": "BCCP",
                "version": metadata.version("bccp"),
                "summary": "An image classifier that answers, remembers what it answered, and takes feedback.",
                "description": "Every refusal is a problem document (RFC 9457). Predictions and images are recorded before they are "
                "answered, feedback is on the disk before it is acknowledged.",
            },
            "servers": [{"url": "/"}],
            "tags": [
                {"name": "Predictions", "description": "Classes of images."},
                {"name": "Feedback", "description": "People's labels, and the images that they are about."},
                {"name": "Operation", "description": "State, figures and this description; no token is asked for."},
                {"name": "MLflow", "description": "The routes of `mlflow models serve`."},
            ],
            "paths": self._paths(),
            "components": {
                "schemas": self._schemas(),
                "securitySchemes": {
                    "serve": {
                        "type": "http",
                        "scheme": "bearer",
                        "description": f"The token of {self.access.token_env}: predicts and votes.",
                    },
                    "review": {
                        "type": "http",
                        "scheme": "bearer",
                        "description": f"The token of {self.access.review_token_env}: audits and sees images; predicts, too.",
                    },
                },
            },
        }

    def _paths(self) -> dict[str, Any]:
        labels = {"labels": {"type": "array", "items": {"type": "string"}}, "model": _ref("Model")}
        status = {"type": "object", "required": ["status"], "properties": {"status": {"const": "ok"}}}
        text = {"type": "string"}
        return {
            "/predict": {"post": self._predict()},
            "/labels": {
                "get": self._operation(
                    "Predictions",
                    "List the classes",
                    "The classes of the model that answers.",
                    {"200": _json_response("The classes.", _object(labels, ["labels", "model"]))},
                    ("no-model",),
                    samples=[("", self._curl("/labels"))],
                )
            },
            "/feedback": {"post": self._feedback()},
            "/images/{sha256}": {"get": self._image()},
            "/healthz": {
                "get": self._operation(
                    "Operation",
                    "Does the process live?",
                    "200 as long as it does.",
                    {"200": _json_response("It lives.", status)},
                    samples=[("", self._curl("/healthz", open_to_all=True))],
                    open_to_all=True,
                )
            },
            "/readyz": {
                "get": self._operation(
                    "Operation",
                    "Is there a model, and does all work?",
                    "`ready`; `degraded` with the reason, where predictions are answered and something else fails: they cannot "
                    "be recorded, or a newer model cannot be loaded; 503 and `no-model` until there is a model.",
                    {
                        "200": _json_response("Images are answered.", _ref("State")),
                        "503": _json_response("There is no model.", _ref("State")),
                    },
                    samples=[("", self._curl("/readyz", open_to_all=True))],
                    open_to_all=True,
                )
            },
            "/metrics": {
                "get": self._operation(
                    "Operation",
                    "Figures for Prometheus",
                    "Counts, durations, queue, model, reloads and feedback, in Prometheus' text format.",
                    {"200": {"description": "The figures.", "content": {"text/plain": {"schema": text}}}},
                    samples=[("", self._curl("/metrics", open_to_all=True))],
                    open_to_all=True,
                )
            },
            "/": {
                "get": self._operation(
                    "Operation",
                    "The way to the page below",
                    "A redirection.",
                    {"307": {"description": "To `/docs`."}},
                    open_to_all=True,
                )
            },
            "/docs": {
                "get": self._operation(
                    "Operation",
                    "This description as a page",
                    "It loads nothing from elsewhere.",
                    {"200": {"description": "The page.", "content": {"text/html": {"schema": text}}}},
                    open_to_all=True,
                )
            },
            "/openapi.json": {
                "get": self._operation(
                    "Operation",
                    "This description",
                    "OpenAPI 3.1.",
                    {"200": _json_response("The description.", {"type": "object"})},
                    samples=[("", self._curl("/openapi.json", open_to_all=True))],
                    open_to_all=True,
                )
            },
            "/invocations": {"post": self._invocations()},
            "/ping": {"get": self._ping()},
            "/health": {"get": self._ping()},
            "/version": {
                "get": self._operation(
                    "MLflow",
                    "MLflow's release",
                    "As text, as MLflow has it.",
                    {"200": {"description": "Such as 3.17.2.", "content": {JSON: {}}}},
                    open_to_all=True,
                )
            },
        }

    def _predict(self) -> dict[str, Any]:
        image = {**_BASE64, "description": "An image file in base64, or a data: URL."}
        event = {**_nullable(_TEXT), "description": "Name of the caller's own record of this image: the service then records nothing."}
        one_of = [_object({"image": image, "event_id": event}, ["image"], closed=True)]
        if self.settings.image_root is not None:
            path = {"type": "string", "minLength": 1, "description": "A regular file below `serve.image_root`."}
            one_of.append(_object({"image_path": path, "event_id": event}, ["image_path"], closed=True))
        channel = {**_nullable(_CHANNEL), "description": "How the images came, for the records; `api` where nothing is said."}
        with_channel = [_object({**one["properties"], "channel": channel}, one["required"], closed=True) for one in one_of]
        listed = {"type": "array", "minItems": 1, "maxItems": self.settings.max_files, "items": {"oneOf": one_of}}
        bodies = {
            "image/*": {"schema": {"type": "string", "contentMediaType": "image/*"}},
            MULTIPART: {
                "schema": _object(
                    {"image": {"type": "array", "items": {"type": "string", "contentMediaType": "application/octet-stream"}}}, []
                )
            },
            JSON: {
                "schema": {"oneOf": [*with_channel, _object({"images": listed, "channel": channel}, ["images"], closed=True)]},
                "examples": {
                    "one": {"summary": "One image", "value": {"image": EXAMPLE}},
                    "several": {"summary": "Several images", "value": {"images": [{"image": EXAMPLE}, {"image": EXAMPLE}]}},
                },
            },
        }
        answer = {"oneOf": [_ref("Prediction"), _ref("Predictions")]}
        kinds = (*_IMAGE, *(("image-path",) if self.settings.image_root is not None else ()), *_BODY, "no-model")
        return self._operation(
            "Predictions",
            "Classify images",
            "One image: its class, or a problem. Several (files of a form, or `images` in JSON): an answer or a problem for each, in their "
            f"order. At most {self.settings.max_files} images and {self.settings.max_bytes:,} bytes a request; fields of a form may have "
            "any name. An image that cannot be read hurts none of the others.",
            {"200": _json_response("The answer.", answer)},
            kinds,
            body=bodies,
            parameters=[{"name": "channel", "in": "query", "required": False, "schema": _CHANNEL, "description": channel["description"]}],
            samples=[
                ("The image as the body", self._curl("/predict", "-H", "Content-Type: image/png", "--data-binary", "@example.png")),
                ("Files of a form", self._curl("/predict", "-F", "image=@example.png", "-F", "image=@example.png")),
                ("JSON", self._curl("/predict", body={"image": EXAMPLE})),
            ],
        )

    def _feedback(self) -> dict[str, Any]:
        label = self.classes[0] if self.classes else "class"
        label_schema = {**_TEXT, "description": "A class of GET /labels."}
        if 0 < len(self.classes) <= _MAX_CLASSES:
            label_schema = {"type": "string", "enum": self.classes, "description": "A class of GET /labels."}
        properties: dict[str, Any] = {
            "request_id": {"type": "string", "format": "uuid", "description": "Of a prediction."},
            "image_sha256": {**_SHA256, "description": "Of an image that was predicted."},
            "image": {**_BASE64, "description": "An image file; it is predicted, too."},
            "label": label_schema,
            "user": {**_TEXT, "description": "Whoever says so. The name itself is not kept: a hash with a secret key is."},
            "channel": {**_nullable(_CHANNEL), "description": "How the feedback came; `api` where nothing is said."},
            "shown": {"type": ["boolean", "null"], "description": "Whether the person saw the prediction before answering."},
        }
        about = ("request_id", "image_sha256", "image")
        others = [{key: {"type": "null"} for key in about if key != one} for one in about]
        schema = {
            "oneOf": [_object(properties | other, [one, "label", "user"], closed=True) for one, other in zip(about, others, strict=True)]
        }
        digest = hashlib.sha256(base64.b64decode(EXAMPLE)).hexdigest()
        example = {"image_sha256": digest, "label": label, "user": "ann", "shown": True}
        key = {
            "name": "Idempotency-Key",
            "in": "header",
            "required": False,
            "schema": {"type": "string", "minLength": 1, "maxLength": 200, "pattern": "^[!-~]([ -~]*[!-~])?$"},
            "description": "The user's own name for this feedback; sent again, it is recorded once.",
        }
        return self._operation(
            "Feedback",
            "Give a label to an image",
            "A vote; with the review token an audit. A user's later vote on an image takes the place of the earlier one. The "
            f"acknowledgement is sent once the feedback is on the disk. At most {self.settings.votes_per_minute} votes a minute of a user, "
            "ten times as many of an address or token.",
            {
                "201": _json_response("It is recorded.", _ref("Acknowledgement")),
                "200": _json_response("It had been recorded before, under the same key.", _ref("Acknowledgement")),
            },
            (
                *_IMAGE,
                *_BODY,
                "unknown-label",
                "idempotency-key-reused",
                "unknown-request",
                "unknown-image",
                "rate-limited",
                "no-model",
                "store-unavailable",
            ),
            body={JSON: {"schema": schema, "examples": {"vote": {"summary": "On an image that was predicted", "value": example}}}},
            parameters=[key],
            samples=[
                ("On the example, once it has been predicted", self._curl("/feedback", "-H", "Idempotency-Key: first", body=example)),
                ("With the image itself", self._curl("/feedback", body={"image": EXAMPLE, "label": label, "user": "bob"})),
            ],
        )

    def _image(self) -> dict[str, Any]:
        digest = hashlib.sha256(base64.b64decode(EXAMPLE)).hexdigest()
        return self._operation(
            "Feedback",
            "See an image",
            "For reviewers: upright, without its metadata, as PNG, at most 1,600 pixels wide or high.",
            {
                "200": {
                    "description": "The image.",
                    "content": {"image/png": {"schema": {"type": "string", "contentMediaType": "image/png"}}},
                }
            },
            ("unknown-image", "not-an-image", "store-unavailable"),
            parameters=[{"name": "sha256", "in": "path", "required": True, "schema": _SHA256, "description": "Of the file's bytes."}],
            samples=[("", self._curl(f"/images/{digest}", "-o", "image.png", review=True))],
            review=True,
        )

    def _invocations(self) -> dict[str, Any]:
        rows = {"type": "array", "minItems": 1, "description": "An image in base64 a row, or first in it."}
        table = {**rows, "type": ["array", "object"], "description": "Rows, or columns, of which the first is taken."}
        forms = {
            "dataframe_split": _object({"columns": {}, "data": rows}, ["data"]),
            "dataframe_records": table,
            "inputs": table,
            "instances": table,
        }
        row = {
            "class": {"type": ["string", "null"]},
            "probability": {"type": ["number", "null"]},
            "top_3": {"type": ["object", "null"], "additionalProperties": {"type": "number"}},
            "error": {"type": ["string", "null"]},
        }
        answer = _object({"predictions": {"type": "array", "items": _object(row, list(row))}}, ["predictions"])
        return self._operation(
            "MLflow",
            "Classify images, as MLflow's server does",
            "A row an image: its class, or why it has none. What was written for `mlflow models serve` works with another address.",
            {"200": _json_response("A row an image.", answer)},
            (*_BODY, "no-model"),
            body={
                JSON: {
                    "schema": {"oneOf": [_object({key: schema}, [key]) for key, schema in forms.items()]},
                    "examples": {
                        "inputs": {"value": {"inputs": [EXAMPLE]}},
                        "records": {"value": {"dataframe_records": [{"image": EXAMPLE}]}},
                        "split": {"value": {"dataframe_split": {"columns": ["image"], "data": [[EXAMPLE]]}}},
                    },
                },
                "text/csv": {"schema": {"type": "string"}, "example": f"image\n{EXAMPLE}\n"},
            },
            samples=[("", self._curl("/invocations", body={"inputs": [EXAMPLE]}))],
        )

    def _ping(self) -> dict[str, Any]:
        return self._operation(
            "MLflow",
            "Is there a model?",
            "200 with one, else 404.",
            {"200": {"description": "There is.", "content": {JSON: {}}}, "404": {"description": "There is none.", "content": {JSON: {}}}},
            open_to_all=True,
        )

    def _operation(
        self,
        tag: str,
        summary: str,
        description: str,
        responses: Mapping[str, Any],
        kinds: Sequence[str] = (),
        *,
        body: Mapping[str, Any] | None = None,
        parameters: Sequence[Mapping[str, Any]] = (),
        samples: Sequence[tuple[str, str]] = (),
        review: bool = False,
        open_to_all: bool = False,
    ) -> dict[str, Any]:
        """An operation, with a response for each status that one of its problems has."""
        asks = review or (self.access.asks_for_token and not open_to_all)
        kinds = (*kinds, *_ALWAYS, *(("unauthorised",) if not open_to_all else ()))
        by_status: dict[str, list[str]] = {}
        for kind in kinds:
            by_status.setdefault(str(KINDS[kind].status), []).append(kind)
        problems = {
            status: {
                "description": "; ".join(f"`{kind}`: {KINDS[kind].title}" for kind in found) + ".",
                "content": {MEDIA_TYPE: {"schema": _ref("Problem")}},
            }
            for status, found in sorted(by_status.items())
        }
        made: dict[str, Any] = {"tags": [tag], "summary": summary, "description": description}
        if parameters:
            made["parameters"] = list(parameters)
        if body is not None:
            made["requestBody"] = {"required": True, "content": dict(body)}
        made["responses"] = {**problems, **responses}
        made["security"] = [{"review": []}] if review else [{"serve": []}, {"review": []}] if asks else []
        if samples:
            made[SAMPLES] = [{"lang": "Shell", "label": label, "source": source} for label, source in samples]
        return made

    def _curl(self, path: str, *options: str, body: Any = None, review: bool = False, open_to_all: bool = False) -> str:
        """A command that a shell takes as it stands."""
        words = ["curl", *(shlex.quote(option) for option in options)]
        if review or (self.access.asks_for_token and not open_to_all):
            name = self.access.review_token_env if review else self.access.token_env
            words += ["-H", f'"Authorization: Bearer ${name}"']
        if body is not None:
            words += ["-H", "'Content-Type: application/json'", "-d", shlex.quote(json.dumps(body, ensure_ascii=False))]
        return " ".join([*words, shlex.quote(f"{self.address}{path}")])

    def _schemas(self) -> dict[str, Any]:
        share = {"type": "number", "minimum": 0, "maximum": 1}
        model = {
            "name": {"type": "string"},
            "version": {"type": ["integer", "null"], "description": "Of the registered model; null where it is none."},
            "digest": {"type": "string", "description": "SHA-256 of the model's files."},
        }
        prediction = {
            "request_id": {"type": "string", "format": "uuid"},
            "class": {"type": "string"},
            "probability": share,
            "top_3": {"type": "object", "additionalProperties": share, "description": "The likeliest classes, the likeliest first."},
            "image_sha256": _SHA256,
            "model": _ref("Model"),
        }
        problem = {
            "type": {"type": "string", "description": "Ends with the name of the problem."},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
        }
        refused = _object({"error": _ref("Problem")}, ["error"])
        acknowledgement = {
            "feedback_id": {"type": "string", "format": "uuid"},
            "image_sha256": _SHA256,
            "label": {"type": "string"},
            "kind": {"enum": ["vote", "audit"]},
            "repeated": {"type": "boolean"},
        }
        error = {"error": {"type": ["string", "null"]}}
        state = {
            "status": {"enum": ["ready", "degraded", "no-model"]},
            "model": {"oneOf": [_ref("Model"), {"type": "null"}]},
            "recording": _object({"lost": {"type": "integer"}, **error}, ["lost", "error"]),
            "reload": _object(error, ["error"]),
        }
        listed = {"type": "array", "items": {"oneOf": [_ref("Prediction"), refused]}}
        return {
            "Model": _object(model, list(model)),
            "Prediction": _object(prediction, list(prediction)),
            "Predictions": _object({"predictions": listed, "model": _ref("Model")}, ["predictions", "model"]),
            "Acknowledgement": _object(acknowledgement, list(acknowledgement)),
            "State": _object(state, list(state)),
            "Problem": _object(problem, list(problem)),
        }


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _nullable(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {**schema, "type": [schema["type"], "null"]}


def _object(properties: Mapping[str, Any], required: Sequence[str], *, closed: bool = False) -> dict[str, Any]:
    made: dict[str, Any] = {"type": "object", "required": list(required), "properties": dict(properties)}
    return made | {"additionalProperties": False} if closed else made


def _json_response(description: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {JSON: {"schema": schema}}}
