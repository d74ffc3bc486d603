"""Which tests this machine, or this way of running them, cannot run: they are skipped, and say why."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parent.parent / "shared"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--ray", action="store_true", help="put the models of the service's tests behind Ray Serve")
    parser.addoption("--ray-log", type=Path, metavar="FILE", help="with --ray: write what was asked as JSON")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip, with the reason, what wants files, a device or a package that are not here."""
    for item in items:
        if item.get_closest_marker("ray") and find_spec("ray") is None:
            item.add_marker(pytest.mark.skip(reason="the extra 'ray' is not installed"))
        here = item.get_closest_marker("in_process")
        if here and config.getoption("--ray"):
            item.add_marker(pytest.mark.skip(reason=f"not through a cluster: {here.kwargs['reason']}"))
        if item.get_closest_marker("shared_data") and not SHARED.is_dir():
            item.add_marker(pytest.mark.skip(reason="the public data and clips (../shared) are not here"))
        if item.get_closest_marker("gpu"):
            import torch

            if not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))
