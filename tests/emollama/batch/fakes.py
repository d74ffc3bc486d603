"""A labelling without a model, which other processes can load: what a clip's bytes say is what happens."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emollama.batch.items import Task
from emollama.batch.labelling import FATAL, Labelling
from emollama.batch.outcome import Outcome, failure, result_line
from emollama.errors import CheckpointError, DependencyError, EmoLlamaError, UnsupportedMediaError


@dataclass(frozen=True, kw_only=True)
class FakeLabelling(Labelling):
    """``log`` gets the id of every clip that is worked on; ``log``.pids the process that loads this and its parent."""

    log: str
    breaks: str = ""

    def load(self, *, num_cores: int | None = None) -> FakeLabels:
        with open(f"{self.log}.pids", "a") as file:
            file.write(f"{os.getpid()}\n{os.getppid()}\n")
        if self.breaks == "error":
            raise CheckpointError("the model is damaged", field="model")
        if self.breaks == "exit":
            os._exit(3)
        return FakeLabels(self)


class FakeLabels:
    def __init__(self, labelling: FakeLabelling) -> None:
        self._labelling = labelling

    def label(self, task: Task) -> Outcome:
        with open(self._labelling.log, "a") as file:
            file.write(f"{task.item.id}\n")
        content = b"" if task.item.path is None else Path(task.item.path).read_bytes()
        try:
            self._act(content, task)
        except FATAL:
            raise
        except (EmoLlamaError, OSError) as error:
            return failure(task.item, error, task=task)
        timeline = None if self._labelling.timelines is None else f"timeline of {content.decode()}\n"
        return Outcome(
            index=task.item.index, failed=False, line=result_line(task, facts(task, content)), timeline=timeline
        )

    def _act(self, content: bytes, task: Task) -> None:
        word = content.split(b" ")[0]
        once = Path(f"{self._labelling.log}.{task.item.index}")
        if word == b"bad":
            raise UnsupportedMediaError("this looks like text", field="file")
        if word == b"bug":
            raise ZeroDivisionError("division by zero")
        if word == b"missing":
            raise DependencyError("a package is missing", field="asr")
        if word == b"slow":
            time.sleep(0.05)
        if word == b"hang":
            time.sleep(600)
        if word == b"die":
            os.kill(os.getpid(), signal.SIGKILL)
        if word == b"die-once" and not once.exists():
            once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if word == b"kill-parent-once" and not once.exists():
            once.touch()
            with contextlib.suppress(ProcessLookupError):
                os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(600)


def facts(task: Task, content: bytes) -> dict[str, Any]:
    share = (len(content) % 7 + 1) / 10
    return {
        "model": "fake",
        "adapter": None,
        "clip": task.item.id if task.item.clip is None else Path(task.item.clip).name,
        "seconds": float(len(content)),
        "emotion": {
            "label": "sadness",
            "confidence": share,
            "abstained": False,
            "scores": {"sadness": share, "happiness": 1 - share},
        },
        "open_vocabulary": ["grief", "loss"],
        "rationale": f"The words “{'' if task.transcript is None else task.transcript.text}” sound sad.",
        "transcript": None if task.transcript is None else {"text": task.transcript.text},
        "modalities": {"visual": {"used": True}, "audio": {"used": False}, "text": {"used": False}},
        "warnings": ["No voice was heard.", "It is dark."],
        "timings_ms": {"total": 1.0},
        "valence": -0.5,
        "arousal": None,
        "affect_source": "face",
    }


def worked_on(labelling: FakeLabelling) -> list[str]:
    path = Path(labelling.log)
    return path.read_text().splitlines() if path.exists() else []
