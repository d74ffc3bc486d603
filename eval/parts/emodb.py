"""EmoDB: how well the voice model reads acted emotion in speech.

`evaluate` scores a model on a Parquet table of EmoDB's columns: UAR (the mean recall of the six classes), WAR,
macro-F1, calibration error. A model that was trained on those speakers says little by that; `cross_validated` scores
the out-of-fold file of the recipe ``nano_voice``, in which every recording was judged by networks that never heard its
speaker. Boredom is left out of both.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from emollama import metrics
from emollama.datasets import emodb
from emollama.encoders.voice import VoiceEncoder
from emollama.errors import DatasetError
from emollama.labels import EMODB_6
from emollama.prosody import measure

DEFAULT_MODEL = Path(__file__).resolve().parents[2] / "emollama" / "assets" / "nano" / "voice.safetensors"


def evaluate(
    data: Path,
    *,
    model: str | Path | VoiceEncoder | None = None,
    out_of_fold: str | Path | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> dict[str, Any]:
    """Score a voice model on EmoDB; ``data`` is the raw data folder or one Parquet file of the same columns.

    ``model`` is a ``voice.safetensors``, a folder that holds one, or a loaded encoder; the default is nano's. With
    ``out_of_fold``, the ``oof.json`` of a run, that file's judgements are scored and no model is asked. A recording in
    which no voice is found counts as wrong.
    """
    if out_of_fold is not None:
        return cross_validated(Path(data), Path(out_of_fold))
    encoder = model if isinstance(model, VoiceEncoder) else _load(model)
    utterances = emodb.read(Path(data))
    rows = []
    for number, utterance in enumerate(utterances):
        readings, _ = encoder.read(utterance.audio, measure(utterance.audio))
        rows.append(readings.probabilities)
        if progress is not None:
            progress(number + 1, len(utterances))
    figures = _score(utterances, rows, encoder.config.labels)
    return {"model": encoder.name, "parameters": sum(p.numel() for p in encoder.members.parameters()), **figures}


def cross_validated(data: Path, out_of_fold: Path) -> dict[str, Any]:
    """Score the out-of-fold judgements; ``uar`` is the mean over the folds of `emodb.FOLDS`, ``folds`` has each."""
    try:
        document = json.loads(out_of_fold.read_text())
    except (OSError, ValueError) as error:
        raise DatasetError(
            f"{out_of_fold} cannot be read ({error}); `emollama train nano_voice` writes runs/voice/oof.json"
        ) from error
    utterances = emodb.read(data)
    logs: Mapping[str, Sequence[float]] = document["log_probabilities"]
    missing = [u.name for u in utterances if u.name not in logs]
    if missing:
        raise DatasetError(f"{out_of_fold} lacks {len(missing)} recordings, {missing[0]} among them; train again")
    rows = [np.exp(np.asarray(logs[u.name])) for u in utterances]
    labels = tuple(document["labels"])
    folds = {}
    for fold in emodb.FOLDS:
        chosen = [i for i, u in enumerate(utterances) if u.speaker in fold]
        folds["+".join(fold)] = _score([utterances[i] for i in chosen], [rows[i] for i in chosen], labels)["uar"]
    return {**_score(utterances, rows, labels), "uar": float(np.mean(list(folds.values()))), "folds": folds}


def _score(
    utterances: Sequence[emodb.Utterance], rows: Sequence[np.ndarray | None], labels: tuple[str, ...]
) -> dict[str, Any]:
    if not utterances:
        raise DatasetError("there is no recording to score")
    classes = len(EMODB_6)
    columns = [labels.index(label) for label in EMODB_6]
    truth = np.array([EMODB_6.index(u.emotion) for u in utterances])
    heard = [row is not None for row in rows]
    # What was not heard is wrong whatever it is: the class after the true one, with certainty.
    wrong = np.eye(classes)[(truth + 1) % classes]
    judged = np.stack([wrong[i] if row is None else row[columns] for i, row in enumerate(rows)])
    judged = judged / judged.sum(1, keepdims=True)
    predicted = judged.argmax(1)
    recall = metrics.per_class_recall(truth, predicted, num_classes=classes)
    counts = metrics.confusion_matrix(truth, predicted, num_classes=classes)[:, :classes]
    return {
        "recordings": len(utterances),
        "speakers": sorted({u.speaker for u in utterances}),
        "without_voice": heard.count(False),
        "uar": metrics.unweighted_average_recall(truth, predicted, num_classes=classes),
        "war": metrics.accuracy(truth, predicted),
        "macro_f1": metrics.macro_f1(truth, predicted, num_classes=classes),
        "ece": metrics.expected_calibration_error(judged, truth),
        "brier": metrics.brier(judged, truth),
        "recall": {
            label: None if np.isnan(value) else float(value) for label, value in zip(EMODB_6, recall, strict=True)
        },
        "support": {label: int(count) for label, count in zip(EMODB_6, counts.sum(1), strict=True)},
        "confusion": counts.tolist(),
    }


def _load(model: str | Path | None) -> VoiceEncoder:
    path = Path(model) if model is not None else DEFAULT_MODEL
    return VoiceEncoder.load(path / "voice.safetensors" if path.is_dir() else path)
