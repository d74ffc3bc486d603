"""A folder of small files that the fake labelling acts on, and the fake itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.emollama.batch.fakes import FakeLabelling


@pytest.fixture
def clips(tmp_path: Path) -> Callable[..., Path]:
    """Write files of a name and a content; return their folder."""

    def write(**contents: str) -> Path:
        folder = tmp_path / "clips"
        folder.mkdir(exist_ok=True)
        for name, content in contents.items():
            (folder / f"{name}.mp4").write_text(content)
        return folder

    return write


@pytest.fixture
def labelling(tmp_path: Path) -> FakeLabelling:
    return FakeLabelling(log=str(tmp_path / "log"))
