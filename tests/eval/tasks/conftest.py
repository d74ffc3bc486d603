"""Miniatures of the data sets, each built once for all the tasks and files that share it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.eval.tasks.miniatures import MINIATURES, wheel_lists


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {}


@pytest.fixture
def miniature(built: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, media: type) -> Callable[[str], Path]:
    """Return the folder of a task's data set in miniature; it is shared, so nobody writes into it."""

    def folder_of(name: str) -> Path:
        build = MINIATURES[name].build
        if build.__name__ not in built:
            folder = tmp_path_factory.mktemp(build.__name__)
            build(folder, media)
            built[build.__name__] = folder
        return built[build.__name__]

    return folder_of


@pytest.fixture(scope="session")
def lists(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The word lists of the emotion-wheel metric in miniature."""
    return wheel_lists(tmp_path_factory.mktemp("wheel"))
