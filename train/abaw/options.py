"""What an ABAW recipe is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from emollama.abaw import TASKS
from emollama.abaw.adaptive_rate import check_strides
from emollama.errors import InputError

if TYPE_CHECKING:
    from train.abaw.task import AbawTask
    from train.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class AbawOptions:
    """``data`` holds the annotations (Aff-Wild2's, or Vidmimic2's tables), ``scores`` the kept readings of all videos,
    ``sound`` the features of their sound, or nothing.

    The head is an MLP of ``hidden`` units (0: one linear layer) on what it ``reads``; ``kernel_decay`` is the
    coefficient of its weights' squares in the loss. ``tuning_share`` of the training part, whole videos drawn by
    ``tuning_seed``, is held back: the best epoch, smoothing, shares, thresholds, and with ``strides`` the adaptive
    frame rate are chosen on it. ``fps`` are the videos' frames a second (most of Aff-Wild2's have 30), kept for clips
    of other rates that the heads are to read. ``weighted`` uses class weights (``emi``: the published weights of the
    emotions). ``reported`` is the split that the finished heads are measured on once, or empty; ``compounds`` the
    folder of C-EXPR-DB with labels of one's own, for ``ce``.
    """

    task: str = "expr"
    data: str = ""
    scores: str = ""
    sound: str = ""
    compounds: str = ""
    reads: Literal["scores", "embeddings"] = "embeddings"
    hidden: int = 128
    kernel_decay: float = 0.0
    weighted: bool = True
    tuning_share: float = 0.2
    tuning_seed: int = 0
    class_thresholds: bool = True
    trust: bool = True
    strides: tuple[int, ...] = ()
    reach: int = 100
    alpha: float = 0.1
    fps: float = 30.0
    reported: str = "validation"

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise InputError(f"task is {self.task!r}; allowed: {', '.join(TASKS)}", field="task")
        if self.reads not in ("scores", "embeddings"):
            raise InputError(f"reads is {self.reads!r}; allowed: scores, embeddings", field="reads")
        if self.hidden < 0 or self.kernel_decay < 0:
            raise InputError(f"hidden is {self.hidden}, kernel_decay {self.kernel_decay}; allowed: 0 or more")
        if self.reported not in ("validation", ""):
            raise InputError(f"reported is {self.reported!r}; allowed: validation, or nothing", field="reported")
        if self.strides:
            if self.task != "expr":
                raise InputError("strides have an effect on expr alone", field="strides")
            check_strides(self.strides)
        if self.compounds and self.task != "ce":
            raise InputError("compounds have an effect on ce alone", field="compounds")
        if not 0 < self.alpha < 1 or self.reach < 1:
            raise InputError(f"alpha is {self.alpha}, reach {self.reach}; allowed: between 0 and 1, and 1 or more")

    def build(self, config: TrainConfig) -> AbawTask:
        from train.abaw.task import AbawTask

        return AbawTask(config, self)
