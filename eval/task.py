"""What a benchmark is to the engine: the items to be judged, how a model is asked, and how the answers are scored.

A task is one file in ``eval/tasks`` that defines ``TASK = EvalTask(...)`` and one line in `eval.tasks.TASKS`. It knows
its data set's layout and its own words; it knows no model, no metric and no report.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

from emollama.errors import InputError
from emollama.types import MODALITIES, Clip

Asks = Literal["label", "labels", "open", "affect", "series", "choice", "rationale"]


@dataclass(frozen=True, kw_only=True)
class Item:
    """One thing to be judged: a clip (or words alone), and what is true of it.

    ``gold`` is plain JSON: a label, a list of words, ``{"valence": .., "arousal": ..}``, a share for each label, the
    letter of a choice. Of a series it is ``{"frames": names, "times": seconds from the item's start, "values": [...]}``
    with a label, an affect or a list of flags for each frame. Where a class comes with a valence it is ``{"label": ..,
    "valence": ..}`` on the data set's scale, and ``meta["valence_limit"]`` is what 1.0 is there.

    ``clip`` is a file to read (between ``start`` and ``end`` seconds), ``load`` makes the clip instead. ``group`` is
    the speaker or the video: items of one group are drawn together by the bootstrap.
    """

    id: str
    gold: Any
    clip: Path | None = None
    load: Callable[[], Clip] | None = None
    start: float | None = None
    end: float | None = None
    transcript: str | None = None
    language: str | None = None
    group: str | None = None
    question: str | None = None
    choices: tuple[str, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        if not self.id:
            raise InputError("id is empty; every item wants a name of its own", field="id")
        if self.clip is not None and self.load is not None:
            raise InputError(f"item {self.id!r} has both clip and load; one of them is wanted", field="load")


@dataclass(frozen=True, kw_only=True)
class Published:
    """A figure that somebody else reported: ``value`` of ``figure`` (one of the score task) and where it stands."""

    system: str
    figure: str
    value: float
    source: str
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class EvalTask:
    """One benchmark.

    ``score`` names the rules of `eval.score_tasks.SCORE_TASKS`; ``items(data, split)`` yields what is judged and raises
    `DatasetError` that says what is missing and where to get it; ``asks`` is how a model is asked (`eval.ask`);
    ``labels`` is the closed set that the model is given, in the data set's words; ``instruction`` is put as the
    question to models that take one; ``modalities`` are those that items can have.
    """

    name: str
    title: str
    score: str
    items: Callable[[Path, str], Iterable[Item]]
    splits: tuple[str, ...]
    split: str
    asks: Asks
    modalities: tuple[str, ...]
    labels: tuple[str, ...] = ()
    instruction: str = ""
    published: tuple[Published, ...] = ()
    licence: str = ""
    home: str = ""
    notes: str = ""

    def __post_init__(self) -> None:
        if self.asks not in get_args(Asks):
            raise InputError(f"asks {self.asks!r} is not allowed; one of {', '.join(get_args(Asks))}", field="asks")
        if self.split not in self.splits:
            raise InputError(f"split {self.split!r} is not one of splits: {', '.join(self.splits)}", field="split")
        if not self.modalities or set(self.modalities) - set(MODALITIES):
            raise InputError(
                f"modalities {self.modalities!r} are not allowed; some of {', '.join(MODALITIES)}", field="modalities"
            )
        if self.asks in ("label", "labels") and len(self.labels) < 2:
            raise InputError(f"labels {self.labels!r} hold fewer than 2 classes to choose from", field="labels")
