"""`TrainConfig`: everything a run depends on, saved as JSON beside its checkpoints."""

from __future__ import annotations

import dataclasses
import json
import os
import types
import typing
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from emollama.errors import InputError, UnknownNameError

Precision = Literal["fp32", "bf16"]
Schedule = Literal["cosine", "linear", "constant"]
Optimizer = Literal["adamw", "sgd", "adamw_8bit"]
TRACKERS = ("tensorboard", "wandb")

# Fields that may differ between a run and its resumption: they do not change what is learned. (The number of batches in
# a step does, so the loop holds ``accumulate_steps`` times the number of processes to what it was.)
FREE_ON_RESUME = frozenset(
    {
        "run_dir", "export_dir", "threads", "device", "accumulate_steps", "gradient_checkpointing", "keep_exports",
        "checkpoint_every_seconds", "checkpoint_every_steps", "log_every_steps", "patience", "trackers",
    }
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A whole run. One step is one optimiser update, over ``accumulate_steps`` batches of ``batch_size`` per process.

    The warm-up climbs from ``warmup_start_ratio`` times the peak rate; ``optimizer`` "adamw_8bit" keeps its moments in
    8 bits, in pages that may move to the host where there is a GPU.
    ``projector_learning_rate`` is the peak rate of parameters under ``projectors.`` (``None``: that of the others).
    ``sam_rho`` is the radius of sharpness-aware minimisation (`train.sharpness`); a step then costs two.
    ``ema_decay`` 0 turns weight averaging off; with it, validation, ``best`` and the export use the averaged weights.
    ``gradient_checkpointing`` computes a layer's activations again in the backward pass instead of keeping them.
    ``validate_every_steps`` adds validations to those at the end of every ``validate_every_epochs``-th epoch.
    ``monitor`` is "name:max" or "name:min" of a figure that `Task.validate` returns; ``patience`` validations without
    an improvement of it end the run (``None``: never). ``export`` says which weights are exported at the end;
    ``keep_exports`` is how many validations' exports are kept in ``exports/`` besides the best one (0: none is made).
    ``trackers`` are "tensorboard" and "wandb", beside ``metrics.jsonl``, which is always written.
    """

    recipe: str
    run_dir: str
    task: Any
    seed: int = 0
    epochs: int = 1
    max_steps: int | None = None
    batch_size: int = 32
    accumulate_steps: int = 1
    optimizer: Optimizer = "adamw"
    learning_rate: float = 1e-3
    projector_learning_rate: float | None = None
    min_learning_rate_ratio: float = 0.0
    warmup_steps: int = 0
    warmup_start_ratio: float = 0.0
    schedule: Schedule = "cosine"
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    momentum: float = 0.9
    clip_norm: float | None = 1.0
    sam_rho: float | None = None
    ema_decay: float = 0.0
    precision: Precision = "fp32"
    gradient_checkpointing: bool = False
    device: Literal["auto", "cpu"] = "auto"
    threads: int = 0
    log_every_steps: int = 20
    checkpoint_every_seconds: float = 120.0
    checkpoint_every_steps: int | None = None
    validate_every_epochs: int = 1
    validate_every_steps: int | None = None
    monitor: str = "loss:min"
    patience: int | None = None
    export: Literal["last", "best"] = "last"
    export_dir: str | None = None
    keep_exports: int = 0
    trackers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate_steps", "validate_every_epochs", "log_every_steps"):
            _check(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        for name in ("warmup_steps", "threads", "weight_decay", "checkpoint_every_seconds", "keep_exports"):
            _check(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        for name in ("max_steps", "patience", "checkpoint_every_steps", "validate_every_steps"):
            value = getattr(self, name)
            _check(value is None or value >= 1, name, value, "1 or more, or null")
        _check(self.learning_rate > 0, "learning_rate", self.learning_rate, "more than 0")
        rate = self.projector_learning_rate
        _check(rate is None or rate > 0, "projector_learning_rate", rate, "more than 0, or null")
        _check(0 <= self.ema_decay < 1, "ema_decay", self.ema_decay, "0 (off) up to, not including, 1")
        _check(
            0 <= self.min_learning_rate_ratio <= 1, "min_learning_rate_ratio", self.min_learning_rate_ratio, "0 to 1"
        )
        _check(0 <= self.warmup_start_ratio <= 1, "warmup_start_ratio", self.warmup_start_ratio, "0 to 1")
        _check(self.clip_norm is None or self.clip_norm > 0, "clip_norm", self.clip_norm, "more than 0, or null")
        _check(self.sam_rho is None or self.sam_rho > 0, "sam_rho", self.sam_rho, "more than 0, or null")
        for name, kinds in (("precision", Precision), ("schedule", Schedule), ("optimizer", Optimizer)):
            _check(getattr(self, name) in get_args(kinds), name, getattr(self, name), " | ".join(get_args(kinds)))
        _check(self.device in ("auto", "cpu"), "device", self.device, "auto | cpu")
        _check(self.export in ("last", "best"), "export", self.export, "last | best")
        known = set(self.trackers) <= set(TRACKERS)
        _check(known, "trackers", self.trackers, f"any of {', '.join(TRACKERS)}")
        name, _, direction = self.monitor.partition(":")
        _check(bool(name) and direction in ("max", "min"), "monitor", self.monitor, "NAME:max or NAME:min")

    @property
    def monitor_name(self) -> str:
        return self.monitor.partition(":")[0]

    @property
    def monitor_sign(self) -> float:
        """+1 when larger is better, -1 when smaller is."""
        return 1.0 if self.monitor.endswith(":max") else -1.0

    def to_json_dict(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self), default=str))
        return document


def _check(good: bool, name: str, value: object, allowed: str) -> None:
    if not good:
        raise InputError(f"{name} is {value!r}; allowed: {allowed}", field=name)


class _Changes(dict[str, Any]):
    """What is set in a part of a config: field -> value, or the changes of a part."""


def override(config: Any, assignments: Iterable[str]) -> Any:
    """Return a copy of a (nested) frozen config with ``key=value`` or ``part.key=value`` scalars replaced.

    Values are read as JSON and, failing that, as text. All are set at once, so that fields which must fit each other
    may change together. An unknown key or a value of another type raises `InputError`.
    """
    changes = _Changes()
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise InputError(f"override {assignment!r} is not of the form key=value", field=key)
        _collect(config, key.strip().split("."), text.strip(), key.strip(), changes)
    return _replaced(config, changes)


def _collect(part: Any, path: list[str], text: str, key: str, changes: _Changes) -> None:
    fields = {f.name: f for f in dataclasses.fields(part)}
    if path[0] not in fields:
        raise UnknownNameError("config key", key, fields)
    old = getattr(part, path[0])
    if len(path) > 1:
        if not dataclasses.is_dataclass(old):
            raise InputError(f"{path[0]} has no parts, so {key} cannot be set", field=key)
        _collect(old, path[1:], text, key, changes.setdefault(path[0], _Changes()))
        return
    if dataclasses.is_dataclass(old):
        raise InputError(f"{key} is a group; set one of its fields, as in {key}.NAME=VALUE", field=key)
    hint = typing.get_type_hints(type(part))[path[0]]
    changes[path[0]] = _parse(text, old, hint, key)


def _replaced(part: Any, changes: _Changes) -> Any:
    values = {
        name: _replaced(getattr(part, name), value) if isinstance(value, _Changes) else value
        for name, value in changes.items()
    }
    return dataclasses.replace(part, **values) if values else part


def _parse(text: str, old: Any, hint: Any, key: str) -> Any:
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = text
    if isinstance(old, str):
        return text
    if isinstance(old, Path):
        return Path(text)
    if isinstance(old, tuple):
        if isinstance(value, list):
            return tuple(value)
        if get_args(hint)[:1] == (str,):  # trackers=tensorboard,wandb
            return tuple(part.strip() for part in text.split(",") if part.strip())
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    kinds = [kind for kind in (get_args(hint) if is_union else (type(old),)) if isinstance(kind, type)]
    if float in kinds and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if str in kinds and value is not None:
        return text
    if type(value) not in kinds and hint is not Any:
        allowed = " or ".join("null" if kind is types.NoneType else kind.__name__ for kind in kinds)
        raise InputError(f"{key} is {text!r}; allowed: a value of type {allowed}", field=key)
    return value


def data_dir(named: str | Path | None = None) -> Path:
    """Where the raw Parquet files lie: as named, else ``EMOLLAMA_DATA``, else ``../shared/data``.

    Loaders say so when it is absent.
    """
    return Path(named or os.environ.get("EMOLLAMA_DATA") or "../shared/data")
