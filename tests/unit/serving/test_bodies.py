"""What is found in the bodies of requests, and what is refused."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest

from bccp.serving.http.bodies import JSON, MULTIPART, Feedback, Upload, Uploads, channel, feedback, idempotency_key, read_below, uploads
from bccp.serving.http.mlflow_routes import CSV, images_of
from bccp.serving.http.problems import ProblemError

PNG = b"\x89PNG\r\n\x1a\n, or what looks like it \x00\xff--"
B64 = base64.b64encode(PNG).decode()


def of_json(body: Any, *, max_files: int = 4) -> Uploads:
    return uploads(JSON, b"application/json", body if isinstance(body, bytes) else json.dumps(body).encode(), max_files=max_files)


def form(*parts: tuple[str, bytes], boundary: bytes = b"xyz", end: bytes = b"--") -> Uploads:
    body = b"".join(
        b"--%s\r\nContent-Disposition: form-data; %s\r\nContent-Type: image/png\r\n\r\n%s\r\n" % (boundary, about.encode(), data)
        for about, data in parts
    )
    return uploads(MULTIPART, b"multipart/form-data; boundary=" + boundary, body + b"--" + boundary + end + b"\r\n", max_files=3)


def test_a_raw_body_is_the_image() -> None:
    assert uploads("image/png", b"image/png", PNG, max_files=1) == Uploads([Upload(PNG)], is_list=False)


def test_json_holds_an_image_a_path_or_a_list_of_both() -> None:
    assert of_json({"image": B64}) == Uploads([Upload(PNG)], is_list=False)
    assert of_json({"image": f"data:image/png;base64,{B64}", "channel": "app"}) == Uploads([Upload(PNG)], is_list=False, channel="app")
    assert of_json({"image_path": "a/b.png", "event_id": "source:17"}) == Uploads([Upload(b"", "a/b.png", "source:17")], is_list=False)
    listed = of_json({"images": [{"image": B64, "event_id": "source:1"}, {"image_path": "b.png"}]})
    assert listed == Uploads([Upload(PNG, None, "source:1"), Upload(b"", "b.png")], is_list=True)
    assert of_json({"images": [{"image": ""}]}).images == [Upload(b"")]  # empty: a problem of the image, found where it is decoded


def test_text_that_is_no_base64_is_a_problem_of_that_image_alone() -> None:
    bad, good = of_json({"images": [{"image": "https://example.org/a.png"}, {"image": B64}]}).images
    assert bad.problem is not None
    assert (bad.problem.kind, good) == ("not-an-image", Upload(PNG))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "no JSON in UTF-8"),
        (b"\xff\xfe{", "no JSON in UTF-8"),
        (b"[" * 100_000, "no JSON in UTF-8"),
        (b'{"image": ' + b"9" * 5000 + b"}", "no JSON in UTF-8"),
        ([1], "no JSON object"),
        ({}, "either image"),
        ({"image": B64, "image_path": "a"}, "either image"),
        ({"image": 7}, "image is no text"),
        ({"image_path": "a\0b"}, "image_path is no text"),
        ({"image_path": ""}, "image_path is no text"),
        ({"imag": B64}, "unknown key 'imag' (did you mean 'image'?)"),
        ({"images": []}, "images is no list"),
        ({"images": {"image": B64}}, "images is no list"),
        ({"images": [B64]}, r"images[0]: send an object"),
        ({"images": [{"image": B64}, {"image": None}]}, r"images[1]: image is no text"),
        ({"image": B64, "event_id": "\ud800"}, "characters that are no text"),
        ({"image": B64, "event_id": "x" * 201}, "more than 200 characters"),
        ({"image": B64, "channel": "</script>"}, "channel '</script>' is no name"),
    ],
)
def test_json_of_another_form_is_refused(body: Any, said: str) -> None:
    with pytest.raises(ProblemError) as refused:
        of_json(body)
    assert refused.value.kind == "invalid"
    assert said in refused.value.detail


def test_more_images_than_may_be_are_refused() -> None:
    with pytest.raises(ProblemError, match="too-large: more than 4 images"):
        of_json({"images": [{"image": B64}] * 5})
    with pytest.raises(ProblemError, match="too-large: more than 3 images"):
        form(*[('name="f"; filename="a.png"', PNG)] * 4)


def test_a_form_holds_files_in_their_order() -> None:
    one = form(('name="image"; filename="</script><img onerror=x>.png"', PNG))
    assert one == Uploads([Upload(PNG)], is_list=False)
    two = form(('name="a"; filename="a.png"', PNG), ('name="channel"', b"app"), ('name="b"; filename=""', b""))
    assert two == Uploads([Upload(PNG), Upload(b"")], is_list=True, channel="app")
    tricky = PNG + b"\r\n--xy\r\n--"  # almost the boundary
    assert form(('name="a"; filename="a.png"', tricky)).images == [Upload(tricky)]


def test_a_form_that_is_none_is_refused() -> None:
    for said, broken in (
        ("has no file", lambda: form()),
        ("the field 'image' without a file", lambda: form(('name="image"', PNG))),
        ("no whole multipart", lambda: form(('name="a"; filename="a.png"', PNG), end=b"")),
        ("no whole multipart", lambda: uploads(MULTIPART, b"multipart/form-data; boundary=q", PNG, max_files=1)),
        ("names no boundary", lambda: uploads(MULTIPART, b"multipart/form-data", PNG, max_files=1)),
        ("no whole multipart", lambda: form((f'name="a"; filename="{"a" * 9000}"', PNG))),
    ):
        with pytest.raises(ProblemError, match=f"invalid: .*{said}"):
            broken()


def test_a_body_of_nothing_but_small_parts_is_refused_before_it_takes_memory_and_time() -> None:
    for body in (b'{"images":[' + b"{}," * 10**6 + b"{}]}", b'{"image":[' + b"[]," * 10**6 + b"[]]}", b'{"a":[' + b"1," * 10**6 + b"1]}"):
        with pytest.raises(ProblemError, match="more than 100000 values"):
            uploads(JSON, b"", body, max_files=4)
        with pytest.raises(ProblemError, match="more than 100000 values"):
            feedback(body)
        with pytest.raises(ProblemError, match="more than 100000 values"):
            images_of(JSON, body, 4)
    for table in (b"a," * 10**6 + b"\n", b"a\n" + b"b," * 10**6):
        with pytest.raises(ProblemError, match="more than 100000 values"):
            images_of(CSV, table, 4)
    with pytest.raises(ProblemError, match="too-large: more than 4 images"):
        images_of(CSV, b"a\n" * 10**6, 4)
    with pytest.raises(ProblemError, match="too-large: the form has more than 19 parts"):
        form(*[('name="channel"', b"app")] * 21)


def test_a_table_without_rows_is_refused() -> None:
    with pytest.raises(ProblemError, match="invalid: the table has a header line and no row"):
        images_of(CSV, b"image\n", 4)


def vote(**changes: Any) -> Feedback:
    given = {"request_id": "7b", "label": "ant", "user": "Ann", **changes}
    return feedback(json.dumps({key: value for key, value in given.items() if value != "gone"}).encode())


def test_feedback_names_what_it_is_about_a_label_and_a_user() -> None:
    assert vote()[:7] == ("ant", "Ann", "7b", None, None, "api", False)
    assert vote(request_id="gone", image_sha256="A" * 64, shown=True, channel="app")[:7] == (
        "ant",
        "Ann",
        None,
        "a" * 64,
        None,
        "app",
        True,
    )
    assert vote(request_id=None, image=B64).image == PNG
    odd = "</script><img onerror=alert(1)>"
    assert (vote(user=odd).user, vote(label=odd).label) == (odd, odd)


def test_the_digest_of_feedback_heeds_what_is_said_and_not_how() -> None:
    plain = b'{"request_id": "7b", "label": "ant", "user": "Ann"}'
    assert (
        vote().body_sha256
        == feedback(plain).body_sha256
        == feedback(b'{"user":"Ann","label":"ant","request_id":"7b","shown":null}').body_sha256
    )
    assert len({vote().body_sha256, vote(label="bee").body_sha256, vote(shown=True).body_sha256, vote(request_id="7c").body_sha256}) == 4


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"request_id": "gone"}, "one of request_id, image_sha256 and image"),
        ({"image": B64}, "one of request_id, image_sha256 and image"),
        ({"label": "gone"}, "label is missing"),
        ({"label": 3}, "label is missing or no text"),
        ({"user": " "}, "user is missing"),
        ({"user": "a\x00b"}, "characters that are no text"),
        ({"user": "\ud800"}, "characters that are no text"),
        ({"shown": "yes"}, "shown is neither"),
        ({"kind": "audit"}, "unknown key 'kind'"),
        ({"request_id": None, "image_sha256": "../../etc/passwd"}, "no SHA-256"),
        ({"request_id": None, "image": 5}, "image is no text"),
    ],
)
def test_other_feedback_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ProblemError) as refused:
        vote(**changes)
    assert (refused.value.kind, said in refused.value.detail) == ("invalid", True)


def test_names_in_headers_and_addresses_are_plain() -> None:
    assert (idempotency_key(None), idempotency_key(b" k-1 "), channel("telegram.bot-2")) == (None, "k-1", "telegram.bot-2")
    for key in (b"", b"x" * 201, b"\xfc", b"a\x01"):
        with pytest.raises(ProblemError, match="invalid"):
            idempotency_key(key)
    for name in ("", "A", "a b", "x" * 33, "-a"):
        with pytest.raises(ProblemError, match="invalid"):
            channel(name)


def test_a_path_leads_to_regular_files_below_the_folder_and_to_nothing_else(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    (root / "a").mkdir(parents=True)
    elsewhere.mkdir()
    (root / "a" / "b.png").write_bytes(PNG)
    (elsewhere / "secret").write_bytes(b"secret")
    (root / "out.png").symlink_to(elsewhere / "secret")
    (root / "folder").symlink_to(elsewhere)
    (root / "in.png").symlink_to(root / "a" / "b.png")
    (root / "round.png").symlink_to(root / "round.png")
    os.mkfifo(root / "pipe")
    for name in ("a/b.png", "in.png", "a/../a/b.png", str(root / "a" / "b.png")):
        assert read_below(root, name, max_bytes=100) == PNG
    wrong = ["../elsewhere/secret", str(elsewhere / "secret"), "out.png", "folder/secret", "a", ".", "", "pipe", "round.png", "gone.png"]
    wrong += ["/dev/zero", "/proc/self/environ", "https://example.org/a.png", "file:///etc/passwd", "a/b.png/c", "x" * 5000, "\ud800"]
    said = set()
    for name in wrong:
        with pytest.raises(ProblemError) as refused:
            read_below(root, name, max_bytes=100)
        said.add((refused.value.kind, refused.value.detail.rpartition("' is ")[2]))
    assert said == {("image-path", "no regular file below the folder that is served")}
    with pytest.raises(ProblemError, match="too-large"):
        read_below(root, "a/b.png", max_bytes=10)
