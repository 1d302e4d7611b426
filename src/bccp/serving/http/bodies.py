"""Images and feedback in the bodies of requests: one image, a form of files, or JSON."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from bccp.core.errors import nearest
from bccp.models.served_inputs import UnusableInputError, image_file
from bccp.serving.http import json_text
from bccp.serving.http.problems import ProblemError

MULTIPART, JSON = "multipart/form-data", "application/json"
PREDICT_TYPES = ("image/*", MULTIPART, JSON)

CHANNEL = "api"
"""The channel of requests that name none."""

_CHANNEL = re.compile(r"[a-z0-9][a-z0-9_.-]{0,31}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAX_TEXT = 200
"""Characters of a user's name, a label or a key."""

_MAX_PARTS = 16
"""Parts of a form beyond its files; a million would take a minute."""


class Upload(NamedTuple):
    """An image of a request.

    Attributes
    ----------
    data : bytes
        Of the image file; empty where there is a path, or a problem.
    path : str or None
        The file that is named instead.
    event_id : str or None
    problem : ProblemError or None
        Why there are no bytes.
    """

    data: bytes
    path: str | None = None
    event_id: str | None = None
    problem: ProblemError | None = None


class Uploads(NamedTuple):
    """The images of a request.

    Attributes
    ----------
    images : list of Upload
    is_list : bool
        False: the answer is that of the one image.
    channel : str or None
    """

    images: list[Upload]
    is_list: bool
    channel: str | None = None


class Feedback(NamedTuple):
    """The feedback of a request; one of ``request_id``, ``image_sha256`` and ``image`` is given.

    Attributes
    ----------
    label, user : str
    request_id, image_sha256 : str or None
    image : bytes or None
    channel : str
    shown : bool
        Whether the prediction was in sight when the person answered.
    body_sha256 : str
        Of all that was given, in a form that neither order nor blanks change.
    """

    label: str
    user: str
    request_id: str | None
    image_sha256: str | None
    image: bytes | None
    channel: str
    shown: bool
    body_sha256: str


def uploads(content_type: str, header: bytes, body: bytes, *, max_files: int) -> Uploads:
    """Find the images in a body.

    Parameters
    ----------
    content_type : str
        One of :data:`PREDICT_TYPES`.
    header : bytes
        The header Content-Type, whole.
    body : bytes
    max_files : int

    Raises
    ------
    ProblemError
        ``invalid``, or ``too-large`` for more images.
    """
    if content_type == MULTIPART:
        found = _form(header, body, max_files)
    elif content_type == JSON:
        found = _uploads_of_json(body, max_files)
    else:
        return Uploads([Upload(body)], is_list=False)
    return found


def _form(header: bytes, body: bytes, max_files: int) -> Uploads:
    """The files of a form, in their order, whatever their fields are called; ``channel`` is the only other field."""
    boundary = parse_options_header(header)[1].get(b"boundary")
    if not boundary:
        raise ProblemError("invalid", "the header Content-Type of the form names no boundary")
    files: list[Upload] = []
    fields: dict[str, str] = {}
    ended = False
    n_parts = 0
    headers: dict[bytes, bytes] = {}
    name, value = bytearray(), bytearray()
    pieces: list[bytes] = []

    def begin() -> None:
        nonlocal n_parts
        n_parts += 1
        if n_parts > max_files + _MAX_PARTS:
            raise ProblemError("too-large", f"the form has more than {max_files + _MAX_PARTS} parts: send fewer a request")
        headers.clear()
        pieces.clear()

    def end_header() -> None:
        headers[bytes(name).lower()] = bytes(value)
        name.clear()
        value.clear()

    def end_part() -> None:
        about = parse_options_header(headers.get(b"content-disposition", b""))[1]
        if b"filename" in about:
            if len(files) == max_files:
                raise _too_many(max_files)
            files.append(Upload(b"".join(pieces)))
        else:
            field = about.get(b"name", b"").decode("utf-8", "replace")
            if field != "channel":
                raise ProblemError(
                    "invalid",
                    f"the form has the field {field[:_MAX_TEXT]!r} without a file: send images as files (curl -F image=@photo.jpg)",
                )
            fields[field] = b"".join(pieces)[:_MAX_TEXT].decode("utf-8", "replace")

    def end() -> None:
        nonlocal ended
        ended = True

    callbacks: Any = {
        "on_part_begin": begin,
        "on_part_data": lambda data, start, stop: pieces.append(data[start:stop]),
        "on_part_end": end_part,
        "on_header_field": lambda data, start, stop: name.extend(data[start:stop]),
        "on_header_value": lambda data, start, stop: value.extend(data[start:stop]),
        "on_header_end": end_header,
        "on_end": end,
    }
    try:
        parser = MultipartParser(boundary, callbacks)
        parser.write(body)
        parser.finalize()
    except FormParserError:
        ended = False
    if not ended:
        raise ProblemError("invalid", "the form is no whole multipart/form-data")
    if not files:
        raise ProblemError("invalid", "the form has no file: send images as files (curl -F image=@photo.jpg)")
    return Uploads(files, is_list=len(files) > 1, channel=channel(fields["channel"]) if "channel" in fields else None)


def _uploads_of_json(body: bytes, max_files: int) -> Uploads:
    given = _object(body)
    if "images" not in given:
        return Uploads([_upload(given, "", ("channel",))], is_list=False, channel=_channel_of(given))
    _expect_keys(given, ("images", "channel"), "")
    images = given["images"]
    if not isinstance(images, list) or not images:
        raise ProblemError("invalid", 'images is no list of objects: send {"images": [{"image": "…"}]}')
    if len(images) > max_files:
        raise _too_many(max_files)
    return Uploads([_upload(image, f"images[{n}]: ", ()) for n, image in enumerate(images)], is_list=True, channel=_channel_of(given))


def _upload(given: Any, place: str, more: tuple[str, ...]) -> Upload:
    if not isinstance(given, Mapping):
        raise ProblemError("invalid", f"{place}send an object with image (base64 text) or image_path")
    _expect_keys(given, ("image", "image_path", "event_id", *more), place)
    event_id = _text(given, "event_id", place) if given.get("event_id") is not None else None
    if ("image" in given) == ("image_path" in given):
        raise ProblemError("invalid", f"{place}send either image (base64 text) or image_path")
    if "image_path" in given:
        path = given["image_path"]
        if not isinstance(path, str) or not path or "\0" in path:
            raise ProblemError("invalid", f"{place}image_path is no text with the name of a file")
        return Upload(b"", path, event_id)
    if not isinstance(given["image"], str):
        raise ProblemError("invalid", f"{place}image is no text: send the bytes of an image file in base64")
    try:
        return Upload(image_file(given["image"]), None, event_id)
    except UnusableInputError as error:
        return Upload(b"", None, event_id, ProblemError("not-an-image", str(error)))


def feedback(body: bytes) -> Feedback:
    """Find the feedback in a body.

    Raises
    ------
    ProblemError
        ``invalid``, or ``not-an-image`` for text that is no base64.
    """
    given = _object(body)
    _expect_keys(given, ("request_id", "image_sha256", "image", "label", "user", "channel", "shown"), "")
    named = [key for key in ("request_id", "image_sha256", "image") if given.get(key) is not None]
    if len(named) != 1:
        raise ProblemError("invalid", "send one of request_id, image_sha256 and image (base64 text)")
    image = None
    if named == ["image"]:
        if not isinstance(given["image"], str):
            raise ProblemError("invalid", "image is no text: send the bytes of an image file in base64")
        try:
            image = image_file(given["image"])
        except UnusableInputError as error:
            raise ProblemError("not-an-image", str(error)) from None
    sha256 = _text(given, "image_sha256", "").lower() if named == ["image_sha256"] else None
    if sha256 is not None and not _SHA256.fullmatch(sha256):
        raise ProblemError("invalid", "image_sha256 is no SHA-256: send 64 hexadecimal digits")
    shown = given.get("shown")
    if not isinstance(shown, bool | None):
        raise ProblemError("invalid", "shown is neither true nor false")
    return Feedback(
        label=_text(given, "label", ""),
        user=_text(given, "user", ""),
        request_id=_text(given, "request_id", "") if named == ["request_id"] else None,
        image_sha256=sha256,
        image=image,
        channel=_channel_of(given) or CHANNEL,
        shown=bool(shown),
        body_sha256=hashlib.sha256(_canonical(given)).hexdigest(),
    )


def channel(text: str) -> str:
    """Check the name of a channel.

    Raises
    ------
    ProblemError
        ``invalid``
    """
    if not _CHANNEL.fullmatch(text):
        raise ProblemError("invalid", f"channel {text[:_MAX_TEXT]!r} is no name: use up to 32 of a-z, 0-9, _, . and -")
    return text


def idempotency_key(header: bytes | None) -> str | None:
    """Read the header Idempotency-Key.

    Raises
    ------
    ProblemError
        ``invalid``
    """
    if header is None:
        return None
    key = header.decode("latin-1").strip()
    if not key or len(key) > _MAX_TEXT or not key.isascii() or not key.isprintable():
        raise ProblemError("invalid", f"the Idempotency-Key is no text of 1 to {_MAX_TEXT} ASCII characters")
    return key


def _object(body: bytes) -> dict[str, Any]:
    try:
        given = json_text.decode(body)
    except ValueError as error:
        raise ProblemError("invalid", f"the body is no JSON in UTF-8 ({str(error)[:_MAX_TEXT]})") from None
    if not isinstance(given, dict):
        raise ProblemError("invalid", "the body is no JSON object")
    return given


def _expect_keys(given: Mapping[str, Any], known: tuple[str, ...], place: str) -> None:
    for key in given:
        if key not in known:
            raise ProblemError(
                "invalid", f"{place}unknown key {key[:_MAX_TEXT]!r}{nearest(key[:_MAX_TEXT], known)}: use {', '.join(known)}"
            )


def _text(given: Mapping[str, Any], key: str, place: str) -> str:
    """A text that every database can keep."""
    text = given.get(key)
    if not isinstance(text, str) or not text.strip(" "):
        raise ProblemError("invalid", f"{place}{key} is missing or no text")
    if len(text) > _MAX_TEXT:
        raise ProblemError("invalid", f"{place}{key} has more than {_MAX_TEXT} characters")
    if re.search(r"[\x00-\x1f\x7f\ud800-\udfff]", text):
        raise ProblemError("invalid", f"{place}{key} has characters that are no text")
    return text


def _channel_of(given: Mapping[str, Any]) -> str | None:
    if given.get("channel") is None:
        return None
    return channel(_text(given, "channel", ""))


def _canonical(given: Mapping[str, Any]) -> bytes:
    return json_text.encode(dict(sorted((key, value) for key, value in given.items() if value is not None)))


def _too_many(max_files: int) -> ProblemError:
    return ProblemError("too-large", f"more than {max_files} images: send fewer a request")


def read_below(root: Path, name: str, *, max_bytes: int) -> bytes:
    """Read a regular file below a folder, whatever links lead there.

    Parameters
    ----------
    root : Path
        Without links.
    name : str
        A path below the folder, or an absolute one.
    max_bytes : int

    Raises
    ------
    ProblemError
        ``image-path``, in the same words for what is not there and for what lies elsewhere; ``too-large``.
    """
    try:
        real = (root / name).resolve(strict=True)
        descriptor = _opened(root, real)
    except (OSError, ValueError, RuntimeError):
        raise ProblemError("image-path", f"{name[:_MAX_TEXT]!r} is no regular file below the folder that is served") from None
    with os.fdopen(descriptor, "rb") as file:
        n_bytes = os.fstat(descriptor).st_size
        if n_bytes > max_bytes:
            raise ProblemError("too-large", f"{name[:_MAX_TEXT]!r} has more than {max_bytes} bytes")
        return file.read(n_bytes)


def _opened(root: Path, real: Path) -> int:
    """A descriptor of a regular file, opened folder by folder, so that a link that was put there meanwhile leads nowhere."""
    parts = real.relative_to(root).parts
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for part in parts[:-1]:
            inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
            os.close(folder)
            folder = inner
        descriptor = os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    except IndexError:
        raise OSError("the folder itself") from None
    finally:
        os.close(folder)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError("no regular file")
    return descriptor
