"""Ray is imported once, without the warnings of its own that an import of it gives."""

from __future__ import annotations

import contextlib
import warnings

import pytest


@pytest.fixture(scope="session", autouse=True)
def _ray_is_imported() -> None:
    with warnings.catch_warnings(), contextlib.suppress(ImportError):
        warnings.simplefilter("ignore")
        import ray.serve  # noqa: F401
