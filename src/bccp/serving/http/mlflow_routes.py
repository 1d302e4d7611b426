"""The routes of MLflow's scoring server, for callers that were written for ``mlflow models serve``.

References
----------
.. [1] https://mlflow.org/docs/latest/ml/deployment/deploy-model-locally/
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from starlette.responses import Response

from bccp.models.served_inputs import UnusableInputError, image_file
from bccp.serving.http import json_text
from bccp.serving.http.access import Role, expect_content_type
from bccp.serving.http.bodies import JSON, Upload
from bccp.serving.http.incoming import Incoming
from bccp.serving.http.parts import Parts
from bccp.serving.http.predicting import LARGE, answers
from bccp.serving.http.problems import ProblemError

CSV = "text/csv"
TYPES = (JSON, CSV)
FORMATS = ("dataframe_split", "dataframe_records", "inputs", "instances")
CHANNEL = "invocations"


async def invocations(parts: Parts, incoming: Incoming) -> Response:
    """Answer as the model packed for MLflow does: a row an image, with ``class, probability, top_3, error``."""
    parts.access.expect(parts.access.role(incoming.headers.get(b"authorization")), Role.SERVE)
    expect_content_type(incoming.content_type, TYPES)
    body = await incoming.body(parts.settings.max_bytes)
    try:
        if incoming.content_type == CSV or len(body) > LARGE:
            images = await asyncio.to_thread(images_of, incoming.content_type, body, parts.settings.max_files)
        else:
            images = images_of(incoming.content_type, body, parts.settings.max_files)
    except ProblemError as problem:
        problem.members |= {"error_code": "BAD_REQUEST", "message": problem.detail}  # as MLflow has it
        raise
    rows: list[dict[str, Any]] = []
    for one in await answers(parts, incoming, images, CHANNEL):
        if isinstance(one, ProblemError):
            parts.metrics.problem(one.kind)
            rows.append({"class": None, "probability": None, "top_3": None, "error": one.detail})
        else:
            rows.append({"class": one["class"], "probability": one["probability"], "top_3": one["top_3"], "error": None})
    return json_text.respond({"predictions": rows})


async def ping(parts: Parts, incoming: Incoming) -> Response:
    """Answer as MLflow does: 200 with a model, else 404."""
    return Response(b"\n", 404 if parts.holder.current is None else 200, json_text.HEADERS, JSON)


async def version(parts: Parts, incoming: Incoming) -> Response:
    """Answer with MLflow's release, as text."""
    return Response(metadata.version("mlflow"), 200, json_text.HEADERS, JSON)


def images_of(content_type: str, body: bytes, max_files: int) -> list[Upload]:
    """Find the images in a body of MLflow's.

    Parameters
    ----------
    content_type : str
        One of :data:`TYPES`.
    body : bytes
    max_files : int

    Raises
    ------
    ProblemError
        ``invalid``, or ``too-large`` for more images.
    """
    values = _csv(body, max_files + 1) if content_type == CSV else _json(body)
    if not values:
        raise ProblemError("invalid", "the body holds no images: send a row an image")
    if len(values) > max_files:
        raise ProblemError("too-large", f"more than {max_files} images: send fewer a request")
    found = []
    for value in values:
        try:
            found.append(Upload(image_file(value)))
        except UnusableInputError as error:
            found.append(Upload(b"", problem=ProblemError("not-an-image", str(error))))
    return found


def _csv(body: bytes, most_rows: int) -> list[Any]:
    """The first column of a table with a header line."""
    import pandas as pd

    if body.count(b",") > json_text.MOST_VALUES:
        raise ProblemError("invalid", f"the table has more than {json_text.MOST_VALUES} values: send the column image alone")
    try:
        found = pd.read_csv(io.BytesIO(body), dtype=str, keep_default_na=False, nrows=most_rows).iloc[:, 0].tolist()
    except (ValueError, IndexError) as error:
        raise ProblemError("invalid", f"the body is no CSV with a header line ({str(error)[:200]})") from None
    if not found:
        raise ProblemError("invalid", "the table has a header line and no row")
    return found


def _json(body: bytes) -> list[Any]:
    try:
        given = json_text.decode(body)
    except ValueError as error:
        raise ProblemError("invalid", f"the body is no JSON in UTF-8 ({str(error)[:200]})") from None
    named = [key for key in FORMATS if isinstance(given, Mapping) and key in given]
    if len(named) != 1:
        raise ProblemError("invalid", f"the body is no JSON object with one of {', '.join(FORMATS)}")
    (key,) = named
    values = given[key]
    if key == "dataframe_split":
        values = values.get("data") if isinstance(values, Mapping) else None
    elif isinstance(values, Mapping):  # columns
        values = next(iter(values.values()), None)
    if not isinstance(values, list):
        raise ProblemError("invalid", f"{key} is no list of images, one a row")
    return [_first(value) for value in values]


def _first(row: Any) -> Any:
    """The first column of a row."""
    if isinstance(row, Mapping) and list(row) != ["b64"]:
        return next(iter(row.values()), None)
    return (row[0] if row else None) if isinstance(row, list) else row
