"""What a recipe of HSEmotion's face models is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from emollama.encoders.face_models import FACE_MODELS
from emollama.errors import InputError, UnknownNameError

if TYPE_CHECKING:
    from train.affectnet.task import AffectNetTask
    from train.config import TrainConfig

Trains = Literal["head", "all"]
RANDOM = "random"


@dataclass(frozen=True, kw_only=True)
class AffectNetOptions:
    """``data`` holds AffectNet in either release; ``model`` is one of `FACE_MODELS`, of seven or eight expressions.

    ``start`` is what the run begins with: a face model's ``X.safetensors`` (its head, too, where it has the same
    outputs), the ``backbone.safetensors`` of a converted face recogniser, the folder of one of them, or "random".
    ``trains`` "head" leaves the backbone as it is. ``held_per_class`` pictures of every class of the training part
    choose the epoch; with 0 the part that is reported on does, as published. ``reported`` is that part, or empty.
    ``workers`` threads decode. ``debug`` makes the network small, for tests.
    """

    data: str = ""
    model: str = "enet_b0_8_va_mtl"
    start: str = ""
    trains: Trains = "all"
    weighted: bool = True
    held_per_class: int = 250
    held_seed: int = 0
    reported: Literal["val", ""] = "val"
    workers: int = 8
    debug: bool = False

    def __post_init__(self) -> None:
        if self.model not in FACE_MODELS:
            raise UnknownNameError("face model", self.model, FACE_MODELS)
        if self.trains not in get_args(Trains):
            raise InputError(f"trains is {self.trains!r}; allowed: {', '.join(get_args(Trains))}", field="trains")
        if self.trains == "head" and self.start == RANDOM:
            raise InputError(
                "start is 'random'; allowed where the head alone is trained: a network that was trained before",
                field="start",
            )
        if self.reported not in ("val", ""):
            raise InputError(f"reported is {self.reported!r}; allowed: val, or nothing", field="reported")
        if self.held_per_class < 0 or self.workers < 1:
            raise InputError(
                f"held_per_class is {self.held_per_class}, workers {self.workers}; allowed: 0 or more, 1 or more"
            )
        if not self.held_per_class and not self.reported:
            raise InputError(
                "nothing chooses the epoch: held_per_class is 0 and reported empty; allowed: one of them",
                field="held_per_class",
            )

    def build(self, config: TrainConfig) -> AffectNetTask:
        from train.affectnet.task import AffectNetTask

        return AffectNetTask(config, self)
