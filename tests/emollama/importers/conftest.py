"""What every importer's test does with its samples: write a manifest, read it again."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from emollama.manifest import Sample, read_manifest, write_manifest

# The head of a WAV file: importers tell a clip from its name and its first bytes and decode nothing.
WAV = b"RIFF\x24\x00\x00\x00WAVEfmt \x10\x00\x00\x00" + bytes(24)


@pytest.fixture
def clip() -> Callable[..., Path]:
    """Make an empty shell of a clip: ``clip(folder, "a/b.mp4")``."""

    def make(folder: Path, name: str, content: bytes = WAV) -> Path:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    return make


@pytest.fixture
def round_trip() -> Callable[[Path, Iterable[Sample]], tuple[Sample, ...]]:
    """Write samples to ``folder/manifest.jsonl``, read them again, look for their clips, and return what was read."""

    def go(folder: Path, samples: Iterable[Sample]) -> tuple[Sample, ...]:
        made = tuple(samples)
        write_manifest(folder / "manifest.jsonl", made)
        manifest = read_manifest(folder / "manifest.jsonl")
        assert manifest.samples == made
        for sample in manifest.samples:
            path = manifest.clip_path(sample)
            assert path is None or path.is_file()
        return manifest.samples

    return go
