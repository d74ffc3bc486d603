"""FER+: how well the face model reads expressions in pictures of the validation split.

Majority accuracy as the authors of FER+ count it (pictures where one of the eight emotions has more than five votes);
recall per class, macro-F1, calibration error and Brier score on the same pictures; valence and arousal against the
votes' expectation over ``labels.CIRCUMPLEX``, which is derived, not measured.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from emollama import metrics
from emollama.datasets import ferplus
from emollama.encoders.face import FaceEncoder

DEFAULT_MODEL = Path(__file__).resolve().parents[2] / "emollama" / "assets" / "nano" / "face.safetensors"


def evaluate(
    data: Path,
    *,
    model: str | Path | FaceEncoder | None = None,
    split: str = "valid",
    temperature: float = 1.0,
    progress: Callable[[int, int], object] | None = None,
) -> dict[str, Any]:
    """Score a face model on FER+; ``data`` is the raw data folder or one Parquet file of FER+.

    ``model`` is a ``face.safetensors``, a folder that holds one, or a loaded encoder; the default is nano's. Scores are
    softened by ``temperature`` before they are judged.
    """
    encoder = model if isinstance(model, FaceEncoder) else _load(model)
    data = Path(data)
    pictures = ferplus.read_parquet(data) if data.is_file() else ferplus.load(data, split)
    batch = 256
    logs, affect = [], []
    for start in range(0, len(pictures), batch):
        crops = pictures.images[start : start + batch, :, :, None].repeat(3, axis=3)  # grey as RGB: [B, 48, 48, 3]
        read = encoder.embed(crops)
        logs.append(read.log_probabilities)
        affect.append(read.va)
        if progress is not None:
            progress(min(start + batch, len(pictures)), len(pictures))
    labels = ferplus.NANO_LABELS
    columns = [encoder.config.labels.index(label) for label in labels]
    scaled = np.concatenate(logs)[:, columns] / temperature
    probabilities = np.exp(scaled - scaled.max(1, keepdims=True))
    probabilities /= probabilities.sum(1, keepdims=True)
    va = np.concatenate(affect)

    kept = pictures.majority >= 0
    truth, judged = pictures.majority[kept], probabilities[kept]
    predicted = judged.argmax(1)
    classes = len(labels)
    recall = metrics.per_class_recall(truth, predicted, num_classes=classes)
    counts = metrics.confusion_matrix(truth, predicted, num_classes=classes)[:, :classes]
    return {
        "model": encoder.name,
        "parameters": sum(p.numel() for p in encoder.model.parameters()),
        "pictures": len(pictures),
        "majority_pictures": int(kept.sum()),
        "accuracy": metrics.accuracy(truth, predicted),
        "uar": metrics.unweighted_average_recall(truth, predicted, num_classes=classes),
        "macro_f1": metrics.macro_f1(truth, predicted, num_classes=classes),
        "weighted_f1": metrics.weighted_f1(truth, predicted, num_classes=classes),
        "ece": metrics.expected_calibration_error(judged, truth),
        "brier": metrics.brier(judged, truth),
        "recall": {
            label: None if np.isnan(value) else float(value) for label, value in zip(labels, recall, strict=True)
        },
        "support": {label: int(count) for label, count in zip(labels, counts.sum(1), strict=True)},
        "confusion": counts.tolist(),
        "valence_ccc": metrics.concordance(pictures.affect[:, 0], va[:, 0]),
        "arousal_ccc": metrics.concordance(pictures.affect[:, 1], va[:, 1]),
    }


def _load(model: str | Path | None) -> FaceEncoder:
    path = Path(model) if model is not None else DEFAULT_MODEL
    return FaceEncoder.load(path / "face.safetensors" if path.is_dir() else path)
