"""A model in use: by every name that it has, on the engine that is fastest for it, with the answers of `bccp predict`."""

from __future__ import annotations

import asyncio
import copy
import csv
import io
import json
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from bccp.core.errors import BCCPError
from bccp.models import classifier, predictor
from bccp.serving.batch_predict import predict_files
from bccp.serving.engine import onnx_network
from bccp.serving.engine.batching import Answered, Batcher, Item
from bccp.serving.engine.loaded_model import LoadedModel, load_served
from bccp.tracking import wandb_artifacts
from bccp.tracking.backends import ledger_uri
from bccp.tracking.store import Ledger
from support.awkward_files import exif, jpeg_with, png_chunk
from support.made_up_models import CLASSES, TUESDAY, World
from support.serving import serve_settings


@pytest.fixture
def world(home: Path, tmp_path: Path, one_thread: None) -> World:
    return World(tmp_path / "made")


def saved(folder: Path, name: str = "small_cnn", *, size: int = 16, seed: int = 0, **about: Any) -> Path:
    """A model of three classes, in a folder of its own."""
    folder.mkdir(parents=True)
    model = classifier.build_classifier(name, 3, image_size=size, dropout=0.2, seed=seed)
    model.mirrored = about.pop("mirrored", False)
    classifier.save_classifier(model, folder, {"class_names": CLASSES, "resize": "stretch", **about})
    return folder


def load(place: Path | str, **options: Any) -> LoadedModel:
    return load_served(Ledger(ledger_uri(None)[0]), str(place), **options)


def answered(model: LoadedModel, files: list[bytes]) -> list[Answered]:
    """Answers for files, all in one request."""

    async def ask() -> list[Answered]:
        batcher = Batcher(SimpleNamespace(current=model), None, serve_settings(), asyncio.get_running_loop())
        batcher.start()
        try:
            return await batcher.answer([Item(data, "api") for data in files])
        finally:
            await asyncio.to_thread(batcher.stop)

    return asyncio.run(ask())


def test_a_model_is_served_by_every_name_that_it_has(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.monday_model(monkeypatch, wrong=TUESDAY, seed=50)
    digest = world.model(seed=1)
    step = world.test(digest)
    folder = world.ledger.fetch(f"model:{digest}")

    def download(reference: str, place: Path) -> None:
        if not reference.startswith("team/project/"):
            raise BCCPError(f"{reference} cannot be downloaded from W&B (not found)")
        for name in ("model.pt", "model.json"):
            (place / name).write_bytes((folder / name).read_bytes())

    monkeypatch.setattr(wandb_artifacts, "download", download)
    registered = ["models:/made-up@champion", "made-up@champion", "models:/made-up/1"]
    others = [step.run_id, f"model:{digest[:12]}", str(folder), str(folder / "model.pt"), str(folder / "model.json")]
    for name in (*registered, *others, f"team/project/model:d-{digest[:12]}"):
        model = load_served(world.ledger, name)
        assert (model.name, model.version) == (("made-up", 1) if name in registered else ("model", None)), name
        if not name.startswith("team/"):  # which here lacks some of the files
            assert model.digest == digest
        assert (model.classes, model.image_size, model.engine) == (CLASSES, 8, "onnxruntime")
        assert model.probabilities(world.images).argmax(1)[:60].tolist() == world.label_idx[:60].tolist()
    for name, said in {
        "models:/made-up@nobody": "serve.model=models:/made-up@nobody is not in the registry",
        "abcdef": "serve.model=abcdef is neither a registered model",
        "other/project/model:v1": "other/project/model:v1 cannot be downloaded from W&B (not found)",
    }.items():
        with pytest.raises(BCCPError, match=f"^{said[:40]}") as caught:
            load_served(world.ledger, name)
        assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    ("name", "options"),
    [("small_cnn", {}), ("small_cnn", {"mirrored": True}), ("resnet_small", {}), ("efficientnet_lite0", {"size": 32})],
)
def test_onnx_runtime_answers_as_pytorch_does(home: Path, tmp_path: Path, one_thread: None, name: str, options: dict[str, Any]) -> None:
    folder = saved(tmp_path / "model", name, **options)
    model, own = load(folder, max_batch=8), predictor.load_predictor(folder)
    assert model.engine == "onnxruntime"
    images = np.random.default_rng(0).integers(0, 256, (8, model.image_size, model.image_size, 3), dtype=np.uint8)
    expected = own.probabilities(images)
    np.testing.assert_allclose(model.probabilities(images), expected, atol=1e-6)
    for n in range(8):  # alone, too
        np.testing.assert_allclose(model.probabilities(images[n : n + 1])[0], expected[n], atol=1e-6)


def test_a_structure_is_exported_once_for_all_models_that_have_it(
    home: Path, tmp_path: Path, one_thread: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    exports: list[str] = []
    export = onnx_network.exported
    monkeypatch.setattr(onnx_network, "exported", lambda model: exports.append(model.architecture) or export(model))
    images = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    answers = [load(saved(tmp_path / str(seed), seed=seed)).probabilities(images) for seed in (1, 2)]
    assert exports == ["small_cnn"]
    assert np.abs(answers[0] - answers[1]).max() > 1e-3
    (file,) = (home / "cache" / "engines").iterdir()
    file.write_bytes(file.read_bytes()[:-100])  # damaged: made anew
    np.testing.assert_array_equal(load(tmp_path / "1").probabilities(images), answers[0])
    assert exports == ["small_cnn"] * 2
    for place in (saved(tmp_path / "mirrored", mirrored=True), tmp_path / "1"):
        load(place)
    assert exports == ["small_cnn"] * 3
    # beside a model that answers, another process exports
    model = load(saved(tmp_path / "other", "resnet_small"), beside=True)
    assert (model.engine, exports) == ("onnxruntime", ["small_cnn"] * 3)


def test_what_onnx_runtime_cannot_do_pytorch_does_and_a_line_says_so_once(
    home: Path, tmp_path: Path, one_thread: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_model: Any) -> bytes:
        raise RuntimeError("no such operator\nand more")

    monkeypatch.setattr(onnx_network, "exported", refuse)
    lines: list[str] = []
    for seed in (1, 2):
        model = load(saved(tmp_path / str(seed), seed=seed), emit=lines.append)
        own = predictor.load_predictor(tmp_path / str(seed))
        images = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
        assert model.engine == "torch"
        np.testing.assert_allclose(model.probabilities(images), own.probabilities(images), atol=1e-6)
    assert lines == ["PyTorch answers, as ONNX Runtime cannot stand in for it with small_cnn (no such operator)"]


def test_what_may_pass_is_no_reason_for_ever(home: Path, tmp_path: Path, one_thread: None, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, lines = saved(tmp_path / "model"), list[str]()
    (home / "cache").mkdir(exist_ok=True)
    (home / "cache" / "engines").write_text("no folder, so nothing can be kept")
    with monkeypatch.context() as patched:
        patched.setattr(onnx_network, "EXPORT_SECONDS", 0.01)
        assert load(folder, beside=True, emit=lines.append).engine == "torch"
    assert len(lines) == 1
    assert load(folder, emit=lines.append).engine == "onnxruntime"
    assert len(lines) == 1


def test_an_export_that_answers_otherwise_is_not_used(
    home: Path, tmp_path: Path, one_thread: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    export = onnx_network.exported

    def wrong(model: Any) -> bytes:
        other = copy.deepcopy(model)
        other.mirrored = True
        return export(other)

    monkeypatch.setattr(onnx_network, "exported", wrong)
    lines: list[str] = []
    assert load(saved(tmp_path / "model"), emit=lines.append).engine == "torch"
    assert lines[0].startswith("PyTorch answers, as ONNX Runtime cannot stand in for it with small_cnn (a probability differs by")


def pictures() -> dict[str, bytes]:
    """Files of the kinds in which services and training differ most easily."""
    rng = np.random.default_rng(3)
    noise = np.kron(rng.integers(0, 256, (12, 16, 3)), np.ones((4, 4, 1))).astype(np.uint8)
    image = Image.fromarray(noise)

    def written(picture: Image.Image, kind: str, **options: Any) -> bytes:
        file = io.BytesIO()
        picture.save(file, kind, **options)
        return file.getvalue()

    jpeg = written(image, "JPEG", quality=80)
    alpha = image.copy()
    alpha.putalpha(Image.fromarray(noise[:, :, 0]))
    return {
        "photo.jpg": jpeg,
        "progressive.jpg": written(image, "JPEG", progressive=True),
        "cmyk.jpg": written(image.convert("CMYK"), "JPEG"),
        "grey.jpg": written(image.convert("L"), "JPEG"),
        "turned.jpg": jpeg_with(jpeg, (0xE1, exif([(274, 3, (6,))]))),
        "palette.png": written(image.quantize(16), "PNG"),
        "transparent.png": written(alpha, "PNG"),
        "deep.png": written(Image.fromarray(noise[:, :, 0].astype(np.uint16) * 257), "PNG"),
        "animated.gif": written(image, "GIF", save_all=True, append_images=[image.rotate(90)]),
        "picture.webp": written(image, "WEBP", lossless=True),
        "picture.bmp": written(image, "BMP"),
        "picture.tif": written(image, "TIFF", compression="tiff_lzw"),
        "large.jpg": written(image.resize((1280, 960)), "JPEG", quality=95),
    }


def test_answers_are_those_of_bccp_predict_on_the_same_files(home: Path, tmp_path: Path, one_thread: None) -> None:
    folder, files = saved(tmp_path / "model", "resnet_small", size=32, resize="pad"), pictures()
    (tmp_path / "images").mkdir()
    for name, data in files.items():
        (tmp_path / "images" / name).write_bytes(data)
    out = tmp_path / "predictions.csv"
    assert predict_files(str(folder), str(tmp_path / "images"), str(out)).n_unreadable == 0
    with out.open(newline="") as table:
        expected = {row["image"]: row for row in csv.DictReader(table)}
    found = answered(load(folder), list(files.values()))
    for name, one in zip(files, found, strict=True):
        assert one.answer is not None, name
        assert one.answer.label == expected[name]["class"], name
        assert one.answer.top == pytest.approx(json.loads(expected[name]["top_3"]), abs=1e-6), name
    sizes = {name: (one.facts.width, one.facts.height) for name, one in zip(files, found, strict=True) if one.facts}
    assert (sizes["photo.jpg"], sizes["turned.jpg"]) == ((64, 48), (48, 64))


PNG = pictures()["palette.png"]
JPEG = pictures()["photo.jpg"]


def damaged(data: bytes) -> st.SearchStrategy[bytes]:
    """A file that is cut, or of which some bytes are others."""
    cut = st.integers(0, len(data)).map(lambda n: data[:n])
    other = st.tuples(st.integers(0, len(data) - 1), st.binary(min_size=1, max_size=6))
    return cut | other.map(lambda change: data[: change[0]] + change[1] + data[change[0] + len(change[1]) :])


def announced(width: int, height: int) -> bytes:
    """A small PNG file whose header announces other sides."""
    header = struct.pack(">II", width, height) + PNG[24:29]
    return PNG[:8] + png_chunk(b"IHDR", header) + PNG[33:]


FILES = st.one_of(
    st.sampled_from(sorted(pictures().values())),
    st.binary(max_size=64),
    damaged(PNG),
    damaged(JPEG),
    st.builds(announced, st.integers(1, 100_000), st.integers(1, 100_000)),
)


def test_a_batch_of_good_and_bad_files_answers_as_each_does_alone(home: Path, tmp_path: Path, one_thread: None) -> None:
    model = load(saved(tmp_path / "model"), max_batch=64)
    alone: dict[bytes, Answered] = {}

    async def ask(batcher: Batcher, files: list[bytes]) -> None:
        for data in files:
            if data not in alone:
                (alone[data],) = await batcher.answer([Item(data, "api")])
        together = asyncio.gather(*(batcher.answer([Item(data, "api")]) for data in files))
        for data, (one,), same in zip(files, await together, await batcher.answer([Item(data, "api") for data in files]), strict=True):
            for other in (one, same):
                assert other.problem == alone[data].problem
                assert (other.sha256, other.facts) == (alone[data].sha256, alone[data].facts)
                if other.problem is None:
                    assert other.answer is not None
                    assert other.answer.top == pytest.approx(alone[data].answer.top, abs=1e-6)  # type: ignore[union-attr]

    with asyncio.Runner() as runner:

        async def start() -> Batcher:
            made = Batcher(SimpleNamespace(current=model), None, serve_settings(), asyncio.get_running_loop())
            made.start()
            return made

        batcher = runner.run(start())

        @settings(max_examples=60, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
        @given(st.lists(FILES, min_size=1, max_size=12))
        def batches(files: list[bytes]) -> None:
            runner.run(ask(batcher, files))

        batches()
        batcher.stop()
    kinds = {one.problem.kind for one in alone.values() if one.problem}
    assert {"empty", "not-an-image", "truncated", "bomb"} <= kinds
    assert sum(one.problem is None for one in alone.values()) >= len(pictures())
