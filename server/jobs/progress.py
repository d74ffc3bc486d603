"""Reads a run's ``metrics.jsonl`` as it grows: lines become events, checkpoints, and what the job's owner is told.

Where a reader left off is part of `Progress`, which is stored in the same transaction as the events that came of it:
a line gives one event, however often the service is stopped in between. A trainer that goes on from a checkpoint
repeats the steps since then; steps that were told already are not told again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from server.jobs.names import checkpoint_name
from server.records.jobs import CheckpointRecord, EventRecord

_MAX_READ_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a job is, and how far its metrics have been read. ``offset`` is in bytes.

    ``crash_mark`` is how far the run had got when it last crashed (`server.jobs.run_folder.RunFolder.mark`), and
    ``crashes`` counts the crashes since that changed.
    """

    offset: int = 0
    step: int = 0
    total_steps: int = 0
    tokens: int = 0
    validated_step: int = -1
    exported_step: int = -1
    features_done: int = 0
    resumed_at: float = 0.0
    train_loss: float | None = None
    valid: Mapping[str, float] = field(default_factory=dict)
    crashes: int = 0
    crash_mark: str = ""

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Progress:
        names = {each.name for each in fields(cls)}
        return cls(**{name: value for name, value in document.items() if name in names})

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class News:
    """What newly read lines say; ``None`` where they say nothing."""

    progress: Progress
    events: tuple[EventRecord, ...] = ()
    checkpoints: tuple[CheckpointRecord, ...] = ()  # whose adapters lie in exports/step-N
    trained_tokens: int | None = None
    estimated_finish: float | None = None
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        return not (self.events or self.checkpoints)


def read_lines(file: Path, *, offset: int = 0) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield the whole lines from a byte on, each with the offset behind it; a line being written is left for later.

    A file in which no line ends at ``offset`` was written anew since, and is read from its start.
    """
    try:
        handle = file.open("rb")
    except FileNotFoundError:
        return
    with handle:
        handle.seek(max(0, offset - 1))
        position = offset if handle.read(1) == b"\n" else 0
        handle.seek(position)
        for line in handle.read(_MAX_READ_BYTES).splitlines(keepends=True):
            if not line.endswith(b"\n"):
                return
            position += len(line)
            try:
                document = json.loads(line)
            except ValueError:  # the rest of a line that a killed trainer left cut off
                continue
            if isinstance(document, dict):
                yield document, position


def read_news(run_dir: Path, progress: Progress, *, model: str, now: float) -> News:
    """Return what a run's metrics say beyond what is known already."""
    news = News(progress=progress)
    for line, offset in read_lines(run_dir / "metrics.jsonl", offset=progress.offset):
        teller = _TELLERS.get(str(line.get("event")))
        news = replace(news, progress=replace(news.progress, offset=offset))
        if teller is not None:
            news = teller(news, line, model, now)
    if news.progress.total_steps and not progress.total_steps:
        news = replace(news, hyperparameters=_chosen(run_dir))
    return news


def _chosen(run_dir: Path) -> dict[str, int]:
    """Return the hyper-parameters of the run's config, by OpenAI's names; nothing when there is none."""
    try:
        config = json.loads((run_dir / "config.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    names = {"n_epochs": "epochs", "batch_size": "batch_size"}
    return {name: config[key] for name, key in names.items() if isinstance(config.get(key), int)}


def _start(news: News, line: dict[str, Any], model: str, now: float) -> News:
    total = int(line.get("total_steps", 0))
    data: dict[str, Any] = {name: line[name] for name in ("total_steps", "parameters", "trained") if name in line}
    if news.progress.total_steps == total:
        return news
    event = EventRecord(message=f"Training started: {total} steps", data=data or None)
    progress = replace(news.progress, total_steps=total)
    return replace(news, progress=progress, events=(*news.events, event))


def _resume(news: News, line: dict[str, Any], model: str, now: float) -> News:
    step, at = int(line.get("step", 0)), float(line.get("time", 0.0))
    if at <= news.progress.resumed_at:
        return news
    event = EventRecord(message=f"Training goes on from the checkpoint of step {step}", data={"step": step})
    return replace(news, progress=replace(news.progress, resumed_at=at), events=(*news.events, event))


def _features(news: News, line: dict[str, Any], model: str, now: float) -> News:
    done, total = int(line.get("done", 0)), int(line.get("total", 0))
    if done <= news.progress.features_done:
        return news
    event = EventRecord(message=f"Clips read: {done} of {total}", data={"done": done, "total": total})
    return replace(news, progress=replace(news.progress, features_done=done), events=(*news.events, event))


def _step(news: News, line: dict[str, Any], model: str, now: float) -> News:
    step = int(line.get("step", 0))
    left = line.get("seconds_left")
    if isinstance(left, (int, float)):
        news = replace(news, estimated_finish=now + max(0.0, float(left)))
    if step <= news.progress.step:
        return news
    total = news.progress.total_steps
    loss = line.get("loss")
    data: dict[str, Any] = {
        "step": step,
        "total_steps": total,
        "train_loss": loss,
        **{
            name: line[name] for name in ("epoch", "learning_rate", "tokens_per_second", "seconds_left") if name in line
        },
    }
    text = f"Step {step}/{total}" + (f": training loss={loss:.4f}" if isinstance(loss, (int, float)) else "")
    tokens = news.progress.tokens + _tokens_of(line)
    progress = replace(
        news.progress, step=step, tokens=tokens, train_loss=loss if isinstance(loss, (int, float)) else None
    )
    event = EventRecord(message=text, type="metrics", data=data)
    return replace(news, progress=progress, events=(*news.events, event), trained_tokens=tokens)


def _tokens_of(line: dict[str, Any]) -> int:
    """Return the tokens of the steps that a line stands for: counted, or from their rate and time."""
    if isinstance(line.get("tokens"), (int, float)):
        return int(line["tokens"])
    rate, seconds = line.get("tokens_per_second"), line.get("seconds")
    if isinstance(rate, (int, float)) and isinstance(seconds, (int, float)):
        return round(rate * seconds)
    return 0


def _validate(news: News, line: dict[str, Any], model: str, now: float) -> News:
    step = int(line.get("step", 0))
    if step <= news.progress.validated_step:
        return news
    figures = {
        name: float(value)
        for name, value in line.items()
        if name not in ("time", "step", "epoch") and isinstance(value, (int, float)) and not isinstance(value, bool)
    }
    data = {"step": step, **{f"valid_{name}": value for name, value in figures.items()}}
    text = ", ".join(f"{name}={value:.4f}" for name, value in figures.items())
    event = EventRecord(message=f"Validation at step {step}: {text}", type="metrics", data=data)
    progress = replace(news.progress, validated_step=step, valid=figures)
    return replace(news, progress=progress, events=(*news.events, event))


def _checkpoint(news: News, line: dict[str, Any], model: str, now: float) -> News:
    step = int(line.get("step", 0))
    if step <= news.progress.exported_step or not line.get("export"):
        return news
    name = checkpoint_name(model, step)
    valid = news.progress.valid if news.progress.validated_step == step else {}
    metrics = {"step": step, "train_loss": news.progress.train_loss, "valid_loss": valid.get("loss")}
    metrics.update({f"full_valid_{key}": value for key, value in valid.items()})
    record = CheckpointRecord(step=step, model_name=name, metrics=metrics)
    event = EventRecord(message=f"Checkpoint of step {step}: {name}", data={"step": step, "model": name})
    return replace(
        news,
        progress=replace(news.progress, exported_step=step),
        events=(*news.events, event),
        checkpoints=(*news.checkpoints, record),
    )


_TELLERS = {
    "start": _start,
    "resume": _resume,
    "features": _features,
    "step": _step,
    "validate": _validate,
    "checkpoint": _checkpoint,
}
