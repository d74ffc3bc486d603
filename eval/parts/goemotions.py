"""GoEmotions: how well the backbone names the emotion of a comment from its words alone.

Comments with exactly one Ekman class are asked with the prompt of a clip that has words and nothing else; the answer
is the likeliest of nano's eight label tokens. Macro-F1 is over the seven classes that the data set has: an answer of
"contempt" is wrong. Scores are calibrated as in inference where the model folder holds a ``calibration.json``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from emollama import metrics
from emollama.backbones.llama import load_llama
from emollama.backbones.score import next_token_logits
from emollama.calibration import Calibration
from emollama.datasets import goemotions
from emollama.errors import DatasetError
from emollama.labels import EKMAN_7, NANO_LABELS
from emollama.prompt import Renderer

DEFAULT_MODEL = Path(__file__).resolve().parents[2] / "emollama" / "assets" / "nano"
_CHUNK = 1024


def evaluate(
    data: Path,
    *,
    model: str | Path | None = None,
    split: goemotions.Split = "dev",
    adapter: bool = True,
    calibrated: bool = True,
    limit: int | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> dict[str, Any]:
    """Score a model folder (``tokenizer.json``, ``backbone/``, perhaps ``adapter/`` and ``calibration.json``).

    ``data`` is the raw data folder or one Parquet file of GoEmotions; ``adapter=False`` leaves the LoRA out.
    """
    folder = Path(model) if model is not None else DEFAULT_MODEL
    data = Path(data)
    comments = goemotions.read_file(data) if data.is_file() else goemotions.read(data, split=split)
    single = [comment for comment in comments if len(comment.ekman) == 1][:limit]
    if not single:
        raise DatasetError(f"{data} holds no comment with exactly one Ekman class", field="data")
    renderer = Renderer.load(folder / "tokenizer.json")
    backbone = load_llama(folder / "backbone")
    has_adapter = adapter and (folder / "adapter" / "adapter_config.json").is_file()
    if has_adapter:
        from emollama.backbones.lora import load_lora, merge_lora

        backbone = merge_lora(load_lora(backbone, folder / "adapter"))
    calibration = Calibration()
    if calibrated and has_adapter and (folder / "calibration.json").is_file():
        calibration = Calibration.load(folder / "calibration.json")

    tokens = [ids[0] for ids in renderer.label_ids(NANO_LABELS)]
    prompts = [renderer.prefix(transcript=comment.text) for comment in single]
    scores = []
    for start in range(0, len(prompts), _CHUNK):
        scores.append(next_token_logits(backbone.eval(), prompts[start : start + _CHUNK], tokens).numpy())
        if progress is not None:
            progress(min(start + _CHUNK, len(prompts)), len(prompts))
    probabilities = calibration.probabilities(np.concatenate(scores), labels=NANO_LABELS, present=("words",))
    truth = np.array([NANO_LABELS.index(comment.ekman[0]) for comment in single])
    return {"model": folder.name, "split": split, "adapter": has_adapter, **figures(probabilities, truth)}


def figures(probabilities: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    """Score probabilities [N, 8] over `NANO_LABELS` against class indices [N] of Ekman's seven."""
    predicted = probabilities.argmax(1)
    classes = len(NANO_LABELS)
    kept = [NANO_LABELS.index(name) for name in EKMAN_7]
    f1 = metrics.per_class_f1(truth, predicted, num_classes=classes)
    recall = metrics.per_class_recall(truth, predicted, num_classes=classes)
    return {
        "n": len(truth),
        "macro_f1": float(np.mean([f1[index] for index in kept])),
        "accuracy": metrics.accuracy(truth, predicted),
        "weighted_f1": metrics.weighted_f1(truth, predicted, num_classes=classes),
        "ece": metrics.expected_calibration_error(probabilities, truth),
        "nll": float(-np.log(np.maximum(probabilities[np.arange(len(truth)), truth], 1e-12)).mean()),
        "f1": {NANO_LABELS[index]: float(f1[index]) for index in kept},
        "recall": {NANO_LABELS[index]: None if np.isnan(recall[index]) else float(recall[index]) for index in kept},
        "support": {NANO_LABELS[index]: int((truth == index).sum()) for index in kept},
    }
