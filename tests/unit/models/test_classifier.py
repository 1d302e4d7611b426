"""Classifiers: their common shape, weights from elsewhere, saving and loading, and asking them."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import urllib.error
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bccp.core.errors import BCCPError
from bccp.core.registries import BACKBONES
from bccp.models import classifier, torchvision_compat
from bccp.models.architectures import ImageClassifier, blocks_of, names, torchvision_parts

from torchvision.models import get_model  # isort: skip


pytestmark = pytest.mark.usefixtures("one_thread")


def make(name: str = "small_cnn", n_classes: int = 3, **options: Any) -> ImageClassifier:
    return classifier.build_classifier(name, n_classes, **({"image_size": 32, "dropout": 0.5, "seed": 0} | options))


def make_images(n: int = 5, size: int = 32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def test_torchvision_imports_beside_this_torch_with_its_operators_or_without() -> None:
    import torchvision.ops

    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    if torchvision_compat.DECLARED is None:
        assert torchvision.ops.nms(boxes, torch.ones(1), 0.5).tolist() == [0]
    else:
        with pytest.raises(RuntimeError, match="custom C"):
            torchvision.ops.nms(boxes, torch.ones(1), 0.5)


@pytest.mark.parametrize("name", ["small_cnn", "resnet_small", "mobilenet_v3_small", "resnet18", "squeezenet1_1"])
def test_every_model_ends_in_dropout_and_a_linear_layer(name: str) -> None:
    model = make(name, dropout=0.25)
    images = torch.from_numpy(make_images(2))
    assert isinstance(model.head[0], nn.Dropout)
    assert model.head[0].p == 0.25
    assert isinstance(model.head[1], nn.Linear)
    with torch.inference_mode():
        features = model.embed(images)
        assert features.shape == (2, model.n_features)
        torch.testing.assert_close(model(images), model.head[1](features))
    assert model(images).shape == (2, 3)


@pytest.mark.parametrize(
    ("name", "n_features", "size"),
    [
        ("alexnet", 4096, 64),
        ("convnext_tiny", 768, 32),
        ("densenet121", 1024, 32),
        ("efficientnet_b0", 1280, 32),
        ("googlenet", 1024, 64),
        ("inception_v3", 2048, 80),
        ("mnasnet0_5", 1280, 32),
        ("mobilenet_v2", 1280, 32),
        ("shufflenet_v2_x0_5", 1024, 32),
        ("swin_t", 768, 32),
        ("vgg11", 4096, 32),
        ("vit_b_32", 768, 64),
    ],
)
def test_the_last_layer_of_torchvisions_families_and_the_dropout_before_it_are_found(name: str, n_features: int, size: int) -> None:
    with torch.device("meta"):
        parts = torchvision_parts(name, size, None)
        assert parts.backbone.eval()(torch.zeros(2, 3, size, size)).shape == (2, n_features)
    assert parts.n_features == n_features
    leaves = [module for module in parts.backbone.modules() if not any(module.children())]
    last = next(module for module in reversed(leaves) if not isinstance(module, nn.Identity))
    assert not isinstance(last, nn.Dropout)


@pytest.mark.parametrize(
    ("name", "size"), [("small_cnn", 4), ("small_cnn", 33), ("small_cnn", 128), ("resnet_small", 5), ("resnet_small", 128)]
)
def test_our_own_models_take_images_of_any_size(name: str, size: int) -> None:
    model = make(name, image_size=size)
    assert classifier.probabilities(model, make_images(2, size)).shape == (2, 3)


def test_the_compact_residual_network_has_about_300_000_parameters() -> None:
    assert 250_000 < sum(p.numel() for p in make("resnet_small", 10).parameters()) < 350_000


def test_images_may_be_bytes_or_fractions() -> None:
    model, images = make(), torch.from_numpy(make_images())
    torch.testing.assert_close(model(images), model(images.permute(0, 3, 1, 2) / 255))


def test_the_seed_decides_the_weights_and_the_global_random_state_does_not_change() -> None:
    before = torch.get_rng_state()
    a, b, other = make(seed=1), make(seed=1), make(seed=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(a.head[1].weight, b.head[1].weight)
    assert not torch.equal(a.head[1].weight, other.head[1].weight)


def test_a_frozen_backbone_neither_learns_nor_changes_its_statistics() -> None:
    model = make(freeze_backbone=True).train()
    before = {key: value.clone() for key, value in model.backbone.state_dict().items()}
    model(torch.from_numpy(make_images())).sum().backward()
    assert all(torch.equal(value, before[key]) for key, value in model.backbone.state_dict().items())
    assert {name for name, p in model.named_parameters() if p.grad is not None} == {"head.1.weight", "head.1.bias"}
    assert model.head.training
    assert "random weights" in model.note


@pytest.mark.parametrize(
    ("name", "n_blocks", "last"),
    [
        ("small_cnn", 4, ["Conv2d", "BatchNorm2d"]),
        ("resnet_small", 6, ["ResidualBlock", "BatchNorm2d"]),
        ("alexnet", 7, ["Linear"]),
        ("convnext_tiny", 22, ["CNBlock", "LayerNorm2d"]),
        ("densenet121", 62, ["_DenseLayer", "BatchNorm2d"]),
        ("efficientnet_b0", 18, ["Conv2d", "BatchNorm2d"]),
        ("googlenet", 12, ["Inception"]),
        ("mobilenet_v2", 19, ["Conv2d", "BatchNorm2d"]),
        ("resnet50", 17, ["Bottleneck"]),
        ("swin_t", 16, ["SwinTransformerBlock", "LayerNorm"]),
        ("vgg11", 10, ["Linear"]),
        ("vit_l_32", 25, ["EncoderBlock", "LayerNorm"]),
    ],
)
def test_the_blocks_of_a_network_are_what_its_authors_repeat(name: str, n_blocks: int, last: list[str]) -> None:
    if name in BACKBONES:
        backbone = make(name).backbone
    else:
        with torch.device("meta"):
            backbone = torchvision_parts(name, 64, None).backbone
    blocks = blocks_of(backbone)
    assert (len(blocks), [type(part).__name__ for part in blocks[-1]]) == (n_blocks, last)
    held = [id(parameter) for block in blocks for part in block for parameter in part.parameters()]
    assert len(held) == len(set(held))
    beside = {name for name, parameter in backbone.named_parameters() if id(parameter) not in set(held)}
    assert beside == ({"class_token", "encoder.pos_embedding"} if name.startswith("vit") else set())


@pytest.mark.parametrize(("name", "learning"), [("resnet_small", "backbone.5."), ("mobilenet_v2", "backbone.features.18.")])
def test_the_last_blocks_learn_and_those_before_neither_learn_nor_change_their_statistics(name: str, learning: str) -> None:
    model = make(name)
    model.freeze_all_but(1)
    model.eval().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model(torch.from_numpy(make_images())).sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    free = {name.rpartition(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    weights = [key for key in before if key.endswith("weight")]
    assert free == {key.rpartition(".")[0] for key in weights if key.startswith((learning, "backbone.6", "head.1"))}
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {key for key in before if key.rpartition(".")[0] in free and key.endswith(("mean", "var", "tracked"))} != set()
    assert not model.frozen


def test_as_many_blocks_as_there_are_is_the_whole_network_and_more_are_refused() -> None:
    with torch.device("meta"):
        parts = torchvision_parts("vit_b_32", 64, None)
    model = ImageClassifier(
        parts.backbone, parts.n_features, 3, architecture="vit_b_32", image_size=64, dropout=0.1, mean=(0, 0, 0), std=(1, 1, 1)
    )
    with pytest.raises(BCCPError, match=r"train\.trainable_blocks=14, but the backbone of vit_b_32 has 13 blocks: give at most so many"):
        model.freeze_all_but(14)
    model.freeze_all_but(13)
    assert all(parameter.requires_grad for parameter in model.parameters())
    model.freeze_all_but(12)
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert {name.split(".")[1] for name in frozen} == {"class_token", "conv_proj", "encoder"}
    assert "backbone.encoder.pos_embedding" in frozen


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("mobilenet_v2", 32),
        ("resnet18", 32),
        ("efficientnet_b0", 32),
        pytest.param("vgg11", 32, marks=pytest.mark.slow),
        pytest.param("vit_l_32", 64, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("n_blocks", [None, 2, 0])
def test_the_models_that_people_ask_for_learn_and_are_saved_and_loaded(tmp_path: Path, name: str, size: int, n_blocks: int | None) -> None:
    model, images = make(name, image_size=size, freeze_backbone=n_blocks == 0), make_images(2, size)
    if n_blocks:
        model.freeze_all_but(n_blocks)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    before = {key: float(p.detach().sum()) for key, p in model.named_parameters()}
    statistics = {key: value.clone() for key, value in model.named_buffers()}
    bias = model.head[1].bias.detach().clone()
    torch.nn.functional.cross_entropy(model.train()(torch.from_numpy(images)), torch.tensor([0, 2])).backward()
    optimizer.step()
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in model.parameters() if p.requires_grad)
    frozen = {key for key, p in model.named_parameters() if not p.requires_grad}
    assert bool(frozen) == (n_blocks is not None)
    assert all(float(p.detach().sum()) == before[key] for key, p in model.named_parameters() if key in frozen)
    assert not torch.equal(model.head[1].bias, bias)
    if n_blocks == 0:
        assert {key for key, p in model.named_parameters() if p.requires_grad} == {"head.1.weight", "head.1.bias"}
        assert all(torch.equal(value, statistics[key]) for key, value in model.named_buffers())
    classifier.save_classifier(model.eval(), tmp_path, {"class_names": ["a", "b", "c"]})
    loaded, _ = classifier.load_classifier(tmp_path)
    assert loaded.frozen == (n_blocks == 0)
    np.testing.assert_array_equal(classifier.logits(loaded, images), classifier.logits(model, images))


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("resnet81", {}, "model 'resnet81' is unknown.*did you mean 'resnet18'"),
        ("small_cn", {}, "did you mean 'small_cnn'"),
        ("squeezenet1_1", {"image_size": 8}, "squeezenet1_1 cannot take images of 8 px .*preprocessing.image_size"),
        ("vit_b_32", {"image_size": 33}, "vit_b_32 cannot take images of 33 px .*preprocessing.image_size"),
        (
            "resnet18",
            {"weights": "DEFOULT"},
            "'DEFOULT' is neither a file nor published for resnet18.*IMAGENET1K_V1.*did you mean 'DEFAULT'",
        ),
        ("small_cnn", {"weights": "DEFAULT"}, "no weights are published for small_cnn"),
        ("vit_b_32", {"weights": "DEFAULT"}, "need preprocessing.image_size=224, not 32"),
    ],
)
def test_what_cannot_be_built_is_refused_in_one_sentence(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(BCCPError, match=words) as refused:
        make(name, **options)
    assert "\n" not in str(refused.value)


def test_weights_that_cannot_be_downloaded_are_told_of_and_leave_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "urlopen", offline)
    with pytest.raises(BCCPError, match=r"weights IMAGENET1K_V1 of mobilenet_v3_small could not be downloaded .*no route.*local file"):
        make("mobilenet_v3_small", weights="DEFAULT")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_published_weights_bring_their_normalisation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = get_model("mobilenet_v3_small")
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *_, **__: network.state_dict())
    model = make("mobilenet_v3_small", weights="IMAGENET1K_V1", mean=(0, 0, 0), std=(1, 1, 1))
    assert model.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert torch.equal(model.backbone.state_dict()["features.0.0.weight"], network.state_dict()["features.0.0.weight"])


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "squeezenet1_1"])
def test_a_file_in_torchvisions_shape_gives_the_network_that_it_was_saved_from(name: str, tmp_path: Path) -> None:
    network = get_model(name, num_classes=3).eval()
    torch.save(network.state_dict(), tmp_path / "w.pth")
    model, images = make(name, weights=str(tmp_path / "w.pth")), torch.from_numpy(make_images())
    normal = (images.permute(0, 3, 1, 2) / 255 - model.mean) / model.std
    if name.startswith("squeezenet"):
        # there the last convolution is followed by a rectifier, which a classifier for the cross-entropy has not
        network.classifier[2] = nn.Identity()
        features = network.features(normal).relu().mean((2, 3))
        torch.testing.assert_close(model.embed(images), features)
        assert torch.equal(model.head[1].weight, network.classifier[1].weight.flatten(1))
    else:
        torch.testing.assert_close(model(images), network(normal), rtol=1e-4, atol=1e-5)
    assert model.note == ""


def test_a_file_for_other_classes_gives_all_but_the_last_layer_and_says_so(tmp_path: Path) -> None:
    network = get_model("mobilenet_v3_small", num_classes=7)
    torch.save({"state_dict": network.state_dict()}, tmp_path / "w.pt")
    model = make("mobilenet_v3_small", weights=str(tmp_path / "w.pt"))
    assert torch.equal(model.backbone.features[0][0].weight, network.features[0][0].weight)
    assert "7 classes, not 3" in model.note


def test_the_second_normalisation_that_goes_with_some_published_weights_is_folded_into_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    published = get_model("googlenet", aux_logits=True, init_weights=False).state_dict()
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *_, **__: published)
    model, images = make("googlenet", weights="DEFAULT", image_size=64), torch.from_numpy(make_images(2, 64))
    network = get_model("googlenet", weights="DEFAULT").eval()
    network.fc = nn.Identity()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (classifier.IMAGENET_MEAN, classifier.IMAGENET_STD))
    assert network.transform_input
    with torch.inference_mode():
        torch.testing.assert_close(model.embed(images), network((images.permute(0, 3, 1, 2) / 255 - mean) / std), rtol=1e-3, atol=1e-4)


def test_a_weights_file_of_another_model_is_refused_with_the_first_thing_that_does_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "resnet.pt"
    torch.save(get_model("resnet18").state_dict(), path)
    with pytest.raises(BCCPError, match=r"resnet\.pt does not fit the model mobilenet_v3_small: features\.0\.0\.weight is missing"):
        make("mobilenet_v3_small", weights=str(path))
    with pytest.raises(BCCPError, match=r"resnet\.pt does not fit the model resnet34: layer1\.2\.conv1\.weight is missing"):
        make("resnet34", weights=str(path))
    state = make("small_cnn").state_dict()
    torch.save(state | {"backbone.0.weight": torch.zeros(8, 3, 3, 3)}, path)
    with pytest.raises(BCCPError, match=r"backbone\.0\.weight has the shape \(8, 3, 3, 3\), not \(16, 3, 3, 3\)"):
        make(weights=str(path))
    torch.save(state | {"backbone.99.weight": torch.zeros(1)}, path)
    with pytest.raises(BCCPError, match=r"backbone\.99\.weight is unknown"):
        make(weights=str(path))


class Malice:
    """Runs a command where it is unpickled."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> Any:
        return Path.touch, (self.victim,)


def test_files_that_are_no_state_dict_are_refused_and_nothing_in_them_is_run(tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("hello")
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "code.pt").write_bytes(pickle.dumps(Malice(tmp_path / "victim")))
    torch.save({"module": Malice(tmp_path / "victim")}, tmp_path / "module.pt")
    for name in ("text.pt", "empty.pt", "code.pt", "module.pt"):
        with pytest.raises(BCCPError, match=rf"{name} cannot be read .*state dict") as refused:
            make(weights=str(tmp_path / name))
        assert "\n" not in str(refused.value)
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(BCCPError, match=r"list\.pt holds no state dict but list"):
        make(weights=str(tmp_path / "list.pt"))
    assert not (tmp_path / "victim").exists()


def test_equal_models_are_saved_as_equal_bytes_and_loaded_as_they_were(tmp_path: Path) -> None:
    about = {"class_names": ["a", "ü b", "c"], "resize": "pad"}
    digests = []
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        model = make(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
        classifier.save_classifier(model, tmp_path / place, about, last_state=make(seed=9).state_dict())
        digests.append({p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in (tmp_path / place).iterdir()})
    assert digests[0] == digests[1]
    assert set(digests[0]) == {"model.pt", "last.pt", "model.json", "README.md"}
    loaded, said = classifier.load_classifier(tmp_path / "one")
    assert said == json.loads((tmp_path / "one" / "model.json").read_text(encoding="utf-8"))
    assert said["class_names"] == about["class_names"]
    assert (said["architecture"], said["image_size"], said["dropout"], said["resize"]) == ("small_cnn", 32, 0.5, "pad")
    np.testing.assert_array_equal(classifier.logits(loaded, make_images()), classifier.logits(model, make_images()))
    assert "models.load" in (tmp_path / "one" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"class_names": ["a", "b"]}, "model.json names 2 classes, but the weights in model.pt tell 3 apart"),
        (
            {"class_names": 3},
            "holds no saved model (model.json: no class_names that could be one): give a folder",
        ),
        ({}, "holds no saved model (model.json: no architecture that could be one)"),
        ([], "holds no saved model (model.json: no architecture that could be one)"),
    ],
)
def test_a_saved_model_that_contradicts_itself_or_says_too_little_is_refused(tmp_path: Path, changed: Any, words: str) -> None:
    classifier.save_classifier(make(), tmp_path, {"class_names": ["a", "b", "c"]})
    about = json.loads((tmp_path / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps(about | changed if changed else changed))
    with pytest.raises(BCCPError, match=re.escape(words)):
        classifier.load_classifier(tmp_path)


def test_a_saved_model_can_be_given_as_weights(tmp_path: Path) -> None:
    source = make(seed=4, mean=(0, 0, 0))
    classifier.save_classifier(source, tmp_path, {"class_names": list("abc")})
    for weights in (tmp_path, tmp_path / "model.pt"):
        np.testing.assert_array_equal(
            classifier.logits(make(weights=str(weights)), make_images()), classifier.logits(source, make_images())
        )


def test_pixels_can_be_normalised_by_a_half_whatever_the_weights(tmp_path: Path) -> None:
    saved = make()
    classifier.save_classifier(saved, tmp_path, {"class_names": ["a", "b", "c"]})
    for options in ({}, {"weights": str(tmp_path)}):
        plain, half = make(**options), make(normalization="half", **options)
        assert torch.equal(plain.mean, saved.mean)
        assert half.mean.flatten().tolist() == half.std.flatten().tolist() == [0.5, 0.5, 0.5]
        assert torch.equal(half.head[1].weight, plain.head[1].weight)
    classifier.save_classifier(half, tmp_path, {"class_names": ["a", "b", "c"]})
    assert classifier.load_classifier(tmp_path)[1]["mean"] == [0.5, 0.5, 0.5]


def test_training_can_start_from_a_saved_model_of_the_same_kind_only(tmp_path: Path) -> None:
    source = make(seed=4)
    classifier.save_classifier(source, tmp_path, {"class_names": list("abc")})
    model = make()
    classifier.initialise(model, tmp_path, class_names=list("abc"))
    assert torch.equal(model.head[1].weight, source.head[1].weight)
    other = make()
    classifier.initialise(other, tmp_path, class_names=list("xyz"))
    assert torch.equal(other.head[1].weight, make().head[1].weight)
    assert torch.equal(other.backbone[0].weight, source.backbone[0].weight)
    assert "other classes (a, b, c)" in other.note
    with pytest.raises(BCCPError, match="'small_cnn', which cannot start a 'resnet_small'"):
        classifier.initialise(make("resnet_small"), tmp_path, class_names=list("abc"))
    with pytest.raises(BCCPError, match="holds no saved model"):
        classifier.initialise(model, tmp_path / "nowhere", class_names=list("abc"))


def test_answers_belong_to_positions_whatever_the_order_and_the_batch_size(tmp_path: Path) -> None:
    model, images = make().train(), make_images(11)
    order = np.random.default_rng(1).permutation(11)
    probs = classifier.probabilities(model, images, batch_size=4)
    assert not model.training
    np.testing.assert_allclose(probs.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(classifier.probabilities(model, images[order], batch_size=3), probs[order], atol=1e-6)
    features = classifier.embed(model, images, batch_size=4)
    on_disk = classifier.embed(model, images[order], batch_size=5, path=tmp_path / "features.npy")
    assert isinstance(on_disk, np.memmap)
    np.testing.assert_allclose(on_disk, features[order], atol=1e-5)
    assert features.dtype == np.float32


def test_stochastic_logits_are_those_of_the_head_with_features_left_out() -> None:
    model = make(dropout=0.5)
    embeddings = classifier.embed(model, make_images(6))
    found = classifier.stochastic_logits(model, embeddings, passes=4, generator=torch.Generator().manual_seed(3))
    assert found.shape == (4, 6, 3)
    draws = torch.rand(4, model.n_features, generator=torch.Generator().manual_seed(3)).numpy()
    weight, bias = model.head[1].weight.detach().numpy(), model.head[1].bias.detach().numpy()
    for s in range(4):
        for n in range(6):
            kept = [embeddings[n, d] / 0.5 if draws[s, d] >= 0.5 else 0.0 for d in range(model.n_features)]
            np.testing.assert_allclose(found[s, n], weight @ np.array(kept) + bias, atol=1e-4)


def test_stochastic_logits_do_not_depend_on_the_other_images_and_average_to_the_plain_ones() -> None:
    model = make(dropout=0.3)
    embeddings = classifier.embed(model, make_images(6))
    order = np.array([3, 1])

    def passes(of: np.ndarray, n: int) -> np.ndarray:
        return classifier.stochastic_logits(model, of, passes=n, generator=torch.Generator().manual_seed(0))

    many = passes(embeddings, 4000)
    np.testing.assert_allclose(passes(embeddings[order], 4000), many[:, order], atol=1e-5)
    standard_error = many.std(0) / np.sqrt(4000)
    assert (np.abs(many.mean(0) - classifier.logits(model, make_images(6))) < 5 * standard_error).all()
    model.dropout = 0.0
    np.testing.assert_allclose(passes(embeddings, 2)[1], classifier.logits(model, make_images(6)), atol=1e-5)


def test_names_holds_ours_and_torchvisions() -> None:
    assert {"small_cnn", "resnet_small", "mobilenet_v2", "resnet18", "vit_l_32"} <= set(names())
    assert "fasterrcnn_resnet50_fpn" not in names()


def test_a_mirrored_model_averages_the_features_of_both_views_in_evaluation_only_and_remembers_it(tmp_path: Path) -> None:
    model, images = make(), torch.from_numpy(make_images())
    with torch.inference_mode():
        by_hand = (model.embed(images) + model.embed(images.flip(2))) / 2
        model.mirrored = True
        torch.testing.assert_close(model.embed(images), by_hand)
        torch.testing.assert_close(model(images), model.head[1](by_hand))
        plain = make().train()
        torch.testing.assert_close(model.train().embed(images), plain.embed(images))
    classifier.save_classifier(model.eval(), tmp_path, {"class_names": list("abc")})
    assert classifier.load_classifier(tmp_path)[0].mirrored
    about = json.loads((tmp_path / "model.json").read_text())
    del about["mirrored"]  # as an older version wrote it
    (tmp_path / "model.json").write_text(json.dumps(about))
    assert not classifier.load_classifier(tmp_path)[0].mirrored
