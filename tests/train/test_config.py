"""TrainConfig: checks, and overrides from a command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from emollama.errors import InputError, UnknownNameError
from train.config import TrainConfig, data_dir, override
from train.recipes import load_recipe


@dataclass(frozen=True, kw_only=True)
class Options:
    width: int = 4
    share: float = 0.5
    name: str = "a"
    sizes: tuple[int, ...] = (1, 2)
    is_on: bool = False
    limit: int | None = None
    folder: Path = Path("x")


def make(**fields) -> TrainConfig:
    return TrainConfig(recipe="toy", run_dir="runs/toy", task=Options(), **fields)


def test_overrides_reach_nested_options_and_keep_types():
    config = override(
        make(),
        ["epochs=3", "learning_rate=1", "task.width=8", "task.name=7", "task.sizes=[3]", "task.is_on=true",
         "patience=2", "clip_norm=null", "task.folder=y", "export_dir=out/x"],
    )  # fmt: skip
    assert (config.epochs, config.learning_rate, config.patience, config.clip_norm) == (3, 1.0, 2, None)
    assert isinstance(config.learning_rate, float)
    assert config.task == Options(width=8, name="7", sizes=(3,), is_on=True, folder=Path("y"))
    assert config.export_dir == "out/x"


def test_fields_that_must_fit_each_other_change_together():
    """Alone either of the two is refused; of the same key the last value stands."""
    together = ["min_learning_rate_ratio=2", "task.width=1", "min_learning_rate_ratio=0.5", "task.width=6"]
    config = override(make(), together)
    assert (config.min_learning_rate_ratio, config.task.width) == (0.5, 6)
    sizes = ["task.sizes=[32, 48, 64, 112]", "task.shares=[1, 1, 1, 1]"]
    assert override(load_recipe("hsemotion_face"), sizes).task.sizes == (32, 48, 64, 112)
    for alone in sizes:
        with pytest.raises(InputError, match="one for each of sizes"):
            override(load_recipe("hsemotion_face"), [alone])


def test_an_optional_value_takes_what_its_type_says():
    config = override(
        make(),
        ["projector_learning_rate=1", "validate_every_steps=50", "export_dir=7", "task.limit=3", "patience=null",
         "trackers=tensorboard, wandb"],
    )  # fmt: skip
    assert config.projector_learning_rate == 1.0
    assert isinstance(config.projector_learning_rate, float)
    assert (config.validate_every_steps, config.task.limit, config.patience) == (50, 3, None)
    assert config.export_dir == "7"
    assert config.trackers == ("tensorboard", "wandb")
    assert override(config, ['trackers=["wandb"]']).trackers == ("wandb",)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("epochs", "not of the form key=value"),
        ("epochs=many", "a value of type int"),
        ("epochs=2.5", "a value of type int"),
        ("task.is_on=1", "a value of type bool"),
        ("task=3", "is a group"),
        ("epochs.x=3", "has no parts"),
        ("epochs=0", "allowed: 1 or more"),
        ("patience=soon", "a value of type int or null"),
        ("patience=1.5", "a value of type int or null"),
        ("projector_learning_rate=fast", "a value of type float or null"),
        ("task.limit=all", "a value of type int or null"),
        ("trackers=mlflow", "any of tensorboard, wandb"),
        ("keep_exports=-1", "0 or more"),
    ],
)
def test_a_bad_override_says_what_is_allowed(assignment, message):
    with pytest.raises(InputError, match=message):
        override(make(), [assignment])


def test_an_unknown_key_lists_the_known_ones():
    with pytest.raises(UnknownNameError, match=r"task\.wdith.*width"):
        override(make(), ["task.wdith=3"])


@pytest.mark.parametrize(
    "fields",
    [
        {"epochs": 0}, {"batch_size": 0}, {"warmup_steps": -1}, {"max_steps": 0}, {"patience": 0},
        {"learning_rate": 0.0},
        {"ema_decay": 1.0}, {"clip_norm": 0.0}, {"precision": "fp16"}, {"schedule": "step"}, {"optimizer": "lion"},
        {"device": "tpu"}, {"checkpoint_every_steps": 0}, {"validate_every_steps": 0}, {"projector_learning_rate": 0.0},
        {"keep_exports": -1}, {"trackers": ("mlflow",)}, {"export": "first"}, {"monitor": "loss"},
        {"min_learning_rate_ratio": 2.0},
    ],
)  # fmt: skip
def test_a_value_outside_its_range_is_refused_by_name(fields):
    with pytest.raises(InputError) as caught:
        make(**fields)
    assert caught.value.field in fields
    assert "allowed" in str(caught.value)


def test_the_config_is_plain_json():
    document = make(betas=(0.9, 0.95)).to_json_dict()
    assert document["task"]["folder"] == "x"
    assert document["betas"] == [0.9, 0.95]


def test_the_data_folder_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("EMOLLAMA_DATA", "/somewhere")
    assert data_dir() == Path("/somewhere")
    monkeypatch.delenv("EMOLLAMA_DATA")
    assert data_dir() == Path("../shared/data")
