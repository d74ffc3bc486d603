"""Manifests over the bundled clip, small enough to train on in a test."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from emollama.checkpoint import ASSETS
from emollama.manifest import ManifestHeader, Sample, write_manifest

SAMPLE_CLIP = ASSETS / "sample" / "sample.mp4"
TEXTS = (
    ("I could do this all day.", "boredom"), ("Nothing ever happens here.", "boredom"),
    ("That is wonderful news.", "happiness"), ("What a lovely surprise.", "happiness"),
    ("The same slides again.", "boredom"), ("I am so glad that you came.", "happiness"),
)  # fmt: skip


@pytest.fixture(scope="session")
def feature_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for the whole run: the clips are the same in every test."""
    return tmp_path_factory.mktemp("features")


@pytest.fixture
def make_manifest(tmp_path: Path) -> Callable[..., Path]:
    """``make_manifest(clips=3, labels=(...))``: stretches of the bundled clip, then rows of words alone."""

    def make(name: str = "manifest.jsonl", *, clips: int = 2, texts: int = 6, **changes: Any) -> Path:
        shutil.copyfile(SAMPLE_CLIP, tmp_path / "sample.mp4")
        samples = [
            Sample(
                id=f"clip-{index}", clip="sample.mp4", start=float(index), end=index + 2.0, label=TEXTS[index][1],
                speaker=f"s{index}", transcript=TEXTS[index][0] if index % 2 else None,
            )
            for index in range(clips)
        ]  # fmt: skip
        samples += [
            Sample(id=f"text-{index}", transcript=text, label=label, speaker=f"t{index}")
            for index, (text, label) in enumerate(TEXTS[:texts])
        ]
        samples = [sample.model_copy(update=changes) for sample in samples]
        header = ManifestHeader(manifest_version=1, labels=("boredom", "happiness"), license="CC0", name="toy")
        write_manifest(tmp_path / name, samples, header=header)
        return tmp_path / name

    return make
