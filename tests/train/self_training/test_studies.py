"""The two studies, on clips that are drawn here instead of composed: what is averaged, and what is compared."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from emollama.errors import InputError
from emollama.fusion.composed import ComposedSets
from emollama.fusion.utterances import Utterances
from emollama.labels import EMODB_6
from train.config import TrainConfig, override
from train.recipes import load_recipe
from train.self_training.rounds import SelfTraining
from train.self_training.studies import Composition, dropout_study, self_training_study


def clips(count: int, *, prefix: str, shift: int = 0) -> Utterances:
    """Both modalities say the class, with noise; every clip has items of its own."""
    random = np.random.default_rng(len(prefix) + shift)
    columns = np.arange(count) % 6
    features = {
        name: (np.eye(6)[columns] + random.normal(0, 0.6, (count, 6))).astype(np.float32) for name in ("face", "voice")
    }
    return Utterances(
        names=tuple(f"{prefix}-{n}:{prefix}f{n}+{prefix}v{n}" for n in range(count)),
        features=features,
        labels=tuple(EMODB_6[column] for column in columns),
        groups=tuple(f"speaker{n % 4}" for n in range(count)),
    )


@dataclass(frozen=True, kw_only=True)
class Drawn(Composition):
    """The same clips for every seed; with ``leaks``, validation has an item of a training clip."""

    leaks: bool = False

    def draw(self, data: Path, cache: Path, *, seed: int) -> ComposedSets:
        labelled = clips(24, prefix="l")
        valid = clips(60, prefix="valid") if not self.leaks else labelled.joined(clips(6, prefix="valid"))
        return ComposedSets(labelled=labelled, rest=clips(36, prefix="rest"), valid=valid, held_out=("a", "b"))


@pytest.fixture
def config() -> TrainConfig:
    return override(load_recipe("fusion"), ["task.hidden=8", "batch_size=12", "learning_rate=0.01"])


def test_the_networks_of_a_seed_are_scored_one_by_one_and_averaged(config: TrainConfig, tmp_path: Path) -> None:
    def study(**options: object) -> dict:
        return dropout_study(tmp_path, tmp_path, config, steps=8, composition=Drawn(), **options)  # type: ignore[arg-type]

    both = study(seeds=[5], networks=2, models=tmp_path / "models")
    single = study(seeds=[5, 1005])
    for side in ("with_modality_dropout", "without_modality_dropout"):
        assert len(both[side]["full"]["values"]) == 1
        assert both[side]["full"]["mean"] == pytest.approx(single[side]["full"]["mean"], abs=1e-4)
        assert both[side]["fall"]["voice"]["mean"] == pytest.approx(single[side]["fall"]["voice"]["mean"], abs=2e-4)
    assert both["networks"] == 2
    assert {path.name for path in (tmp_path / "models").iterdir()} == {"seed-5-with", "seed-5-without"}


def test_what_self_training_recovers_is_a_share_of_the_gap_on_clips_that_none_of_it_saw(
    config: TrainConfig, tmp_path: Path
) -> None:
    def study(drawn: Composition) -> dict:
        options = SelfTraining(rounds=1, members=1, folds=0)
        return self_training_study(tmp_path, tmp_path, config, options, seeds=[1, 2], steps=20, composition=drawn)

    found = study(Drawn())
    few, trained, everything = (found[name]["mean"] for name in ("few_labels", "self_trained", "all_labels"))
    assert found["gap"] == pytest.approx(everything - few, abs=1e-4)
    if found["gap"] > 0:
        assert found["recovered_share_of_the_gap"] == pytest.approx((trained - few) / found["gap"], abs=0.02)
    assert all(len(each["rounds"]) == 2 for each in found["by_seed"])
    with pytest.raises(InputError, match="is in labelled and valid"):
        study(Drawn(leaks=True))
