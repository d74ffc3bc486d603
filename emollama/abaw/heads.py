"""Heads and what was tuned with them: which smoothing, whose opinion counts how much, which thresholds.

Saved as a folder: ``face.safetensors`` and, where sound was learned from, ``sound.safetensors`` (`FrameHead`), and
``plan.json``.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from emollama.abaw import TASKS
from emollama.abaw.adaptive_rate import AdaptiveRate
from emollama.encoders.frame_head import WIDTHS, FrameHead
from emollama.errors import CheckpointError, InputError
from emollama.temporal import box, gaussian

Smoothing = Literal["box", "gaussian"]
FORMAT = 1
_FACE, _SOUND, _PLAN = "face.safetensors", "sound.safetensors", "plan.json"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How values become answers.

    ``width`` is the half-width of the box or the deviation of the Gaussian, in frames; 0 smooths nothing. ``head`` is
    the share of the trained head beside the pre-trained model's own opinion, ``sound`` that of the sound's head beside
    both; one number, or one for each column. ``thresholds`` are for ``au`` what a unit's value must exceed, for
    ``expr`` what a class's value is divided by before the largest is taken (none: the largest as it is). ``trust``
    overrules an expression by a pre-trained model that is surer than it. ``rate`` judges expressions from few frames,
    instead of smoothing. ``fps`` are the frames a second of the videos that ``width`` was tuned on.
    """

    smoothing: Smoothing = "box"
    width: float = 0.0
    head: tuple[float, ...] = (1.0,)
    sound: tuple[float, ...] = (0.0,)
    thresholds: tuple[float, ...] = ()
    trust: float | None = None
    rate: AdaptiveRate | None = None
    fps: float = 30.0

    def __post_init__(self) -> None:
        if self.smoothing not in get_args(Smoothing):
            raise InputError(f"smoothing is {self.smoothing!r}; allowed: {', '.join(get_args(Smoothing))}")
        if self.width < 0 or (self.smoothing == "box" and self.width != int(self.width)):
            raise InputError(f"width is {self.width}; allowed: 0 or more, whole frames for a box", field="width")
        for name in ("head", "sound"):
            shares = getattr(self, name)
            if not shares or not all(0.0 <= share <= 1.0 for share in shares):
                raise InputError(f"{name} is {shares}; allowed: shares of 0 to 1, one or one a column", field=name)
        if self.trust is not None and not 0.0 <= self.trust <= 1.0:
            raise InputError(f"trust is {self.trust}; allowed: 0 to 1, or none", field="trust")
        if not 0.0 < self.fps <= 1000.0:
            raise InputError(f"fps is {self.fps}; allowed: above 0, up to 1000", field="fps")
        if self.trust is not None and self.rate is not None:
            raise InputError("trust wants every frame read; allowed with a rate: none", field="trust")

    def smooth(self, values: np.ndarray) -> np.ndarray:
        """Return a dense series [T, K] smoothed as was tuned."""
        return box(values, int(self.width)) if self.smoothing == "box" else gaussian(values, self.width)

    def to_json_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json_dict(cls, document: Mapping[str, Any]) -> Plan:
        """Read back `to_json_dict`; raises `CheckpointError` for an unknown key."""
        known = {f.name for f in dataclasses.fields(cls)}
        if unknown := sorted(set(document) - known):
            raise CheckpointError(f"the plan has {', '.join(unknown)}; known: {', '.join(sorted(known))}", field="plan")
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in document.items()
        }
        if values.get("rate") is not None:
            rate = dict(values["rate"])
            values["rate"] = AdaptiveRate(
                strides=tuple(rate.pop("strides")), thresholds=tuple(rate.pop("thresholds")), **rate
            )
        return cls(**values)


@dataclass(frozen=True, kw_only=True)
class TunedHeads:
    """What answers a task. ``face`` reads a face model's outputs or embeddings, ``sound`` what was kept of the sound.

    Without ``face`` the pre-trained model answers alone, as it may for ``expr``, ``va`` and ``ce``.
    """

    task: str
    face: FrameHead | None = None
    sound: FrameHead | None = None
    plan: Plan = Plan()

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise InputError(f"task is {self.task!r}; allowed: {', '.join(TASKS)}", field="task")
        wanted = "expr" if self.task == "ce" else self.task
        for name, head in (("face", self.face), ("sound", self.sound)):
            if head is not None and head.task != wanted:
                raise InputError(f"the {name}'s head is one for {head.task}; allowed: one for {wanted}", field=name)
            if head is not None and (head.reads == "sound") != (name == "sound"):
                raise InputError(f"the {name}'s head reads {head.reads}", field=name)
        if self.face is None and self.task in ("au", "emi"):
            raise InputError(f"{self.task} wants a trained head; name it with --head", field="head")
        columns = {"expr": 8, "va": 2, "au": 12, "ce": 7, "emi": 6}[self.task]
        for name in ("head", "sound"):
            if len(getattr(self.plan, name)) not in (1, columns):
                raise InputError(f"{name} has {len(getattr(self.plan, name))} shares; allowed: 1 or {columns}")
        allowed = {"au": (12,), "expr": (0, 8)}.get(self.task, (0,))
        if len(self.plan.thresholds) not in allowed or not all(value > 0 for value in self.plan.thresholds):
            raise InputError(
                f"thresholds are {self.plan.thresholds}; allowed for {self.task}: {' or '.join(map(str, allowed))} "
                "of more than 0",
                field="thresholds",
            )
        if self.plan.rate is not None and self.task != "expr":
            raise InputError("an adaptive frame rate is for expr alone", field="rate")

    @classmethod
    def of(cls, head: FrameHead, *, task: str | None = None) -> TunedHeads:
        """Return a single head with the smoothing and the thresholds that lie in its own file."""
        plan = Plan(width=head.half_width, thresholds=head.thresholds)
        return cls(task=task or head.task, face=head, plan=plan)

    def save(self, folder: Path) -> None:
        """Write the folder of the module's text."""
        from emollama.tensors import write_json

        folder.mkdir(parents=True, exist_ok=True)
        for name, head in ((_FACE, self.face), (_SOUND, self.sound)):
            if head is not None:
                head.save(folder / name)
        parts = [name for name, head in (("face", self.face), ("sound", self.sound)) if head is not None]
        write_json(
            folder / _PLAN, {"format": FORMAT, "task": self.task, "heads": parts, "plan": self.plan.to_json_dict()}
        )

    @classmethod
    def load(cls, path: Path) -> TunedHeads:
        """Read a folder strictly, or a single head's file; raises `CheckpointError`."""
        if path.is_file():
            return cls.of(FrameHead.load(path))
        try:
            document = json.loads((path / _PLAN).read_text("utf-8"))
            if document["format"] != FORMAT:
                raise CheckpointError(f"{path / _PLAN} has format {document['format']}; allowed: {FORMAT}")
            heads = {name: FrameHead.load(path / f"{name}.safetensors") for name in document["heads"]}
            return cls(task=document["task"], plan=Plan.from_json_dict(document["plan"]), **heads)
        except FileNotFoundError as error:
            raise CheckpointError(f"{path} holds no {_PLAN}; expected: a folder that training wrote") from error
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path / _PLAN} is damaged: {error}", field="head") from error


assert set(WIDTHS) | {"ce"} == set(TASKS)
