"""Students whose loss has one more term than :mod:`bccp.labels.student` gives them: consistency, and early-learning regularisation.

N training images, K classes, n images of a batch. Both look at single images, so there is neither mixup nor a frozen backbone.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

from bccp.core.config_schema import MondayModel
from bccp.data.dataset import Days
from bccp.models import batch_augmentation, classifier, transforms
from bccp.models.architectures import ImageClassifier
from bccp.models.fitting.determinism import reproducible
from bccp.models.fitting.losses.cross_entropy import cross_entropy
from bccp.models.fitting.moving_average import MovingAverage
from bccp.models.fitting.schedules import one_cycle
from bccp.models.fitting.training_task import WEIGHT_DECAY

Index = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

SURE = 0.95
"""FixMatch's least confidence of a prediction that becomes a target."""

MEMORY = 0.7
"""ELR's share of what was predicted before, in its mean over the epochs."""

REGULARISER = 3.0
"""ELR's factor."""

Term = Callable[[Tensor, Index, Tensor, nn.Module], Tensor]
"""What each image's loss gets in addition, (n,): from logits of the augmented images (n, K), their positions (n,), the images as they are
(n, 3, S, S), and the network with averaged weights, in evaluation mode."""


def consistency(logits: Tensor, believed: Tensor) -> Tensor:
    """FixMatch's loss of each image, (n,), from logits and a teacher's probabilities, both (n, K); 0 where the teacher is not sure.

    References
    ----------
    K. Sohn et al.: "FixMatch: Simplifying Semi-Supervised Learning with Consistency and Confidence", NeurIPS 2020.
    """
    confidence, likeliest = believed.max(1)
    return F.cross_entropy(logits, likeliest, reduction="none") * (confidence >= SURE)


def early_learning(logits: Tensor, remembered: Tensor) -> tuple[Tensor, Tensor]:
    """ELR's term of each image, (n,), and what is remembered from now on, (n, K), from logits and what was remembered, both (n, K).

    References
    ----------
    S. Liu, J. Niles-Weed, N. Razavian, C. Fernandez-Granda: "Early-Learning Regularization Prevents Memorization of Noisy Labels",
    NeurIPS 2020.
    """
    probs = logits.softmax(1).clamp(1e-4, 1 - 1e-4)  # the logarithm stays finite
    said = probs.detach()
    remembered = MEMORY * remembered + (1 - MEMORY) * said / said.sum(1, keepdim=True)
    return REGULARISER * torch.log(1 - (probs * remembered).sum(1)), remembered


def consistency_term(chosen: Mask) -> Term:
    """:func:`consistency` with the averaged weights as the teacher, for the chosen ones of the N images."""

    def term(logits: Tensor, idx: Index, images: Tensor, teacher: nn.Module) -> Tensor:
        extra, own = torch.zeros_like(logits[:, 0]), np.flatnonzero(chosen[idx])
        if len(own):
            with torch.no_grad():
                believed = teacher(images[own]).softmax(1)
            extra[own] = consistency(logits[own], believed)
        return extra

    return term


def early_learning_term(chosen: Mask) -> Term:
    """:func:`early_learning` for the chosen ones of the N images; what is remembered begins with 0."""
    memory = torch.zeros(0)

    def term(logits: Tensor, idx: Index, images: Tensor, teacher: nn.Module) -> Tensor:
        nonlocal memory
        if not len(memory):
            memory = logits.new_zeros(len(chosen), logits.shape[1])
        extra, memory[idx] = early_learning(logits, memory[idx])
        return extra * torch.from_numpy(chosen[idx]).to(logits.device)

    return term


def fit_with_term(days: Days, recipe: MondayModel, ids: list[str], targets: npt.ArrayLike, term: Term, *, device: str) -> ImageClassifier:
    """:func:`bccp.models.monday_model.fit_recipe` with a term added to each image's loss; one that is always 0 changes no bit of the
    weights.

    Parameters
    ----------
    days : Days
    recipe : MondayModel
        That mirrors always or never.
    ids : list of str, length N
        At least 2.
    targets : array-like, shape (N, K)
        Rows sum to 1.
    term : callable
    device : str

    Returns
    -------
    ImageClassifier
        On the CPU, in evaluation mode.
    """
    seed, mirror = recipe.random_seed, recipe.mirror == "always"
    model = classifier.build_classifier(
        recipe.model, len(days.classes), image_size=days.image_size, dropout=recipe.dropout, seed=seed, weights=recipe.weights
    )
    model.mirrored = mirror
    images, soft = days.view(ids), torch.from_numpy(np.asarray(targets, np.float32)).to(device)
    changes = [batch_augmentation.mirror] * mirror + transforms.changes(recipe.augmentation, image_size=days.image_size)
    n_batches = max(1, min(math.ceil(len(ids) / recipe.batch_size), len(ids) // 2))
    n_steps = recipe.epochs * n_batches
    with reproducible(seed, device):
        generator = torch.Generator().manual_seed(seed)
        model.to(device, memory_format=torch.channels_last).train()
        # with a decay of 0 the average is the newest weights
        average = MovingAverage(model, recipe.ema_decay).eval()
        optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=WEIGHT_DECAY, fused=True)
        cycle = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: one_cycle(step, n_steps))
        for _ in range(recipe.epochs):
            order = torch.randperm(len(ids), generator=generator).numpy()
            for idx in np.array_split(order, n_batches):
                clean = torch.from_numpy(images[idx]).to(device).permute(0, 3, 1, 2) / 255
                seen = clean
                for change in changes:
                    seen = change(seen, generator=generator)
                logits = model(seen.contiguous(memory_format=torch.channels_last))
                loss = (cross_entropy(logits, soft[idx]) + term(logits, idx, clean, average.module)).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                cycle.step()
                average.update()
    model.load_state_dict(average.module.state_dict())
    return model.to("cpu", memory_format=torch.contiguous_format).eval()
