"""A small trained head on kept readings of a face model: expression, affect or action units of a frame, EMI of a clip.

It reads a face model's outputs (``scores``) or ``embeddings``, or what was kept of the ``sound``. One to a few linear
layers with rectifiers between them, and at the end what the task wants: softmax (``expr``), tanh (``va``), a sigmoid
each (``au``, ``emi``). Computed in numpy, so that answering needs no torch. A head knows which readings it was trained
on, the smoothing and the thresholds that were tuned with it. For ``emi`` the input is `statistics` of a clip's frames.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal, get_args

import numpy as np

from emollama.errors import CheckpointError, InputError

HeadTask = Literal["expr", "va", "au", "emi"]
HeadInput = Literal["scores", "embeddings", "sound"]
WIDTHS: Mapping[str, int] = MappingProxyType({"expr": 8, "va": 2, "au": 12, "emi": 6})
EMI_STRIDE = 5  # every fifth frame with a face is read


@dataclass(frozen=True, kw_only=True)
class FrameHead:
    """``weights`` and ``biases`` of the layers, [out, in] and [out]; ``half_width`` in frames; a threshold an AU."""

    task: HeadTask
    reads: HeadInput
    weights: tuple[np.ndarray, ...]
    biases: tuple[np.ndarray, ...]
    half_width: int = 0
    thresholds: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.task not in WIDTHS:
            raise InputError(f"task is {self.task!r}; allowed: {', '.join(WIDTHS)}", field="task")
        if self.reads not in get_args(HeadInput):
            raise InputError(f"reads is {self.reads!r}; allowed: {', '.join(get_args(HeadInput))}", field="reads")
        if not self.weights or len(self.weights) != len(self.biases):
            raise InputError(f"{len(self.weights)} weights and {len(self.biases)} biases; allowed: one of each a layer")
        inputs = self.weights[0].shape[1]
        for weight, bias in zip(self.weights, self.biases, strict=True):
            if weight.shape != (len(bias), inputs):
                raise InputError(f"a layer has shape {weight.shape}; allowed: ({len(bias)}, {inputs})", field="weights")
            inputs = len(bias)
        if inputs != WIDTHS[self.task]:
            raise InputError(f"the head has {inputs} outputs; allowed for {self.task}: {WIDTHS[self.task]}")
        if len(self.thresholds) != (WIDTHS["au"] if self.task == "au" else 0):
            raise InputError(
                f"there are {len(self.thresholds)} thresholds; allowed: 12 for au, none for others", field="thresholds"
            )

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Return the answers [N, K] for ``features`` [N, D]: probabilities, or numbers in the task's range."""
        if features.ndim != 2 or features.shape[1] != self.weights[0].shape[1]:
            raise InputError(
                f"features have shape {features.shape}; allowed: [N, {self.weights[0].shape[1]}]", field="features"
            )
        x = np.asarray(features, np.float64)
        for index, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = (np.maximum(x, 0.0) if index else x) @ weight.T + bias
        if self.task == "va":
            return np.tanh(x)
        if self.task == "expr":
            raised = np.exp(x - x.max(axis=1, keepdims=True))
            return raised / raised.sum(axis=1, keepdims=True)
        return 0.5 * (1.0 + np.tanh(0.5 * x))  # the sigmoid, without overflow

    def save(self, path: Path) -> None:
        """Write ``X.safetensors`` and ``X.json`` beside it."""
        import torch

        from emollama.tensors import write_json, write_tensors

        arrays = {f"{i}.weight": a for i, a in enumerate(self.weights)}
        arrays |= {f"{i}.bias": a for i, a in enumerate(self.biases)}
        write_tensors(path, {name: torch.from_numpy(array.astype(np.float32)) for name, array in arrays.items()})
        document = {
            "task": self.task, "reads": self.reads, "layers": len(self.weights), "half_width": self.half_width,
            "thresholds": list(self.thresholds),
        }  # fmt: skip
        write_json(path.with_suffix(".json"), document)

    @classmethod
    def load(cls, path: Path) -> FrameHead:
        """Read a head strictly; raises `CheckpointError`."""
        from emollama.tensors import check_keys, read_tensors

        tensors = read_tensors(path)
        try:
            document = json.loads(path.with_suffix(".json").read_text("utf-8"))
            count = int(document.pop("layers"))
            document["thresholds"] = tuple(document["thresholds"])
            check_keys(tensors, {f"{i}.{part}": 0 for i in range(count) for part in ("weight", "bias")}, what=str(path))
            weights = tuple(tensors[f"{i}.weight"].numpy() for i in range(count))
            return cls(weights=weights, biases=tuple(tensors[f"{i}.bias"].numpy() for i in range(count)), **document)
        except FileNotFoundError as error:
            raise CheckpointError(f"{path.with_suffix('.json')} is missing beside {path.name}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path} or its description is damaged: {error}", field="head") from error


def statistics(features: np.ndarray, *, stride: int = EMI_STRIDE) -> np.ndarray:
    """Return mean, deviation, least and greatest [4 * D] of every fifth row of ``features`` [N, D]; N at least 1.

    The sound's features are taken whole (``stride`` 1).
    """
    if features.ndim != 2 or not len(features):
        raise InputError(
            f"features have shape {features.shape}; allowed: [N, D] with at least one row", field="features"
        )
    kept = np.asarray(features[::stride], np.float64)
    return np.concatenate([kept.mean(axis=0), kept.std(axis=0), kept.min(axis=0), kept.max(axis=0)])
