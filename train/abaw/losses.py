"""The losses of the heads, as HSEmotion's ABAW-6 notebooks have them, and the weights of classes they use."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from train.recipes.nano_face import batch_concordance

EMI_WEIGHTS = (0.4706, 0.0588, 0.1176, 0.2353, 0.0588, 0.0588)  # published, for Admiration to Joy


def class_weights(counts: Tensor) -> Tensor:
    """Return (1 / n) / min(1 / n) [C] of the classes' counts [C]; 0 for a class that does not occur."""
    counts = counts.double()
    return torch.where(counts > 0, counts.max() / counts.clamp(min=1.0), 0.0).float()


def unit_weights(flags: Tensor) -> Tensor:
    """Return the weights [2, K] of absent and present units, T / (2 n), of flags [T, K]; 0 where none is."""
    present = flags.double().sum(0)
    counts = torch.stack([len(flags) - present, present])
    return torch.where(counts > 0, len(flags) / (2.0 * counts.clamp(min=1.0)), 0.0).float()


def expression_loss(logits: Tensor, classes: Tensor, weights: Tensor) -> Tensor:
    """Return the mean over rows of ``weights[class]`` times the cross-entropy (not divided by the weights' sum)."""
    return (weights[classes] * F.cross_entropy(logits, classes, reduction="none")).mean()


def unit_loss(logits: Tensor, flags: Tensor, weights: Tensor) -> Tensor:
    """Return the mean over rows and units of the weighted binary cross-entropy; ``weights`` [2, K]."""
    entropy = F.binary_cross_entropy_with_logits(logits, flags, reduction="none")
    return (torch.where(flags > 0.5, weights[1], weights[0]) * entropy).mean()


def affect_loss(values: Tensor, truth: Tensor) -> Tensor:
    """Return 1 - the mean CCC of valence and arousal [N, 2] over the batch."""
    return 1.0 - batch_concordance(values, truth).mean()


def intensity_loss(values: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    """Return 1 - the mean of Pearson's r over the batch's columns [N, 6], by ``weights`` [6]."""
    x, y = values - values.mean(0), truth - truth.mean(0)
    correlation = (x * y).sum(0) / ((x * x).sum(0) * (y * y).sum(0)).clamp(min=1e-12).sqrt()
    return 1.0 - (weights * correlation).sum() / weights.sum()
