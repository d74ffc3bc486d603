"""The losses of HSEmotion's face models, as its AffectNet notebooks have them (sb-ai-lab/EmotiEffLib).

With valence and arousal: cross-entropy, its mean weighted by class as torch has it, and (1 - CCC) / 2 for each of the
two over the batch, by standard deviations without bias. Without: cross-entropy against labels smoothed by 0.1, in which
the weights multiply every term of the soft label, so that a row's loss is not its own class's weight times something.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SMOOTHING = 0.1


def concordance(predicted: Tensor, truth: Tensor) -> Tensor:
    """Lin's concordance [K] of the columns of [B, K], B at least 2, with unbiased deviations; differentiable."""
    predicted_variance, truth_variance = predicted.var(0), truth.var(0)
    centred = (predicted - predicted.mean(0)) * (truth - truth.mean(0))
    covariance = centred.sum(0) / (len(truth) - 1)
    scale = predicted_variance + truth_variance + (predicted.mean(0) - truth.mean(0)).square()
    return 2.0 * covariance / scale.clamp_min(1e-8)


def affect_loss(predicted: Tensor, truth: Tensor) -> Tensor:
    """Return the sum over the columns of [B, 2] of (1 - CCC) / 2; rows that are not numbers in ``truth`` do not count.

    With fewer than two rows that count it is 0, and still a function of ``predicted``.
    """
    known = truth.isfinite().all(1)
    if int(known.sum()) < 2:
        return predicted.sum() * 0.0
    return ((1.0 - concordance(predicted[known], truth[known])) / 2.0).sum()


def smoothed_loss(logits: Tensor, classes: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted cross-entropy of logits [B, C] against smoothed labels; ``weights`` [C]."""
    count = logits.shape[1]
    soft = torch.full_like(logits, SMOOTHING / count)
    soft[torch.arange(len(classes), device=classes.device), classes] += 1.0 - SMOOTHING
    return -(weights * soft * logits.log_softmax(1)).sum(1).mean()


def face_loss(
    logits: Tensor, affect: Tensor | None, *, classes: Tensor, affect_truth: Tensor, weights: Tensor
) -> Tensor:
    """Return a batch's loss for a model with (``affect`` [B, 2]) or without valence and arousal."""
    if affect is None:
        return smoothed_loss(logits, classes, weights)
    return F.cross_entropy(logits, classes, weight=weights) + affect_loss(affect, affect_truth)
