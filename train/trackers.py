"""TensorBoard and Weights & Biases beside ``metrics.jsonl``, through accelerate's trackers.

A resumed run goes on in the same W&B run, and TensorBoard forgets what was logged after the checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from typing import Any

from accelerate import Accelerator

from emollama.errors import DependencyError
from train.config import TrainConfig
from train.run_dir import RunDir

PROJECT = "emollama"
_PACKAGES = {"tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",)}


def require_trackers(names: Iterable[str]) -> None:
    """Raise `DependencyError` unless the packages behind the named trackers are installed."""
    for name in names:
        if not any(find_spec(package) for package in _PACKAGES[name]):
            package = _PACKAGES[name][0]
            raise DependencyError(
                f"trackers has {name!r}, which needs a package that is not installed: pip install {package}",
                field="trackers",
            )


def start_trackers(accelerator: Accelerator, config: TrainConfig, run_dir: RunDir, *, step: int) -> None:
    """Begin (or, after ``step`` steps, go on) to track a run; call it in every process."""
    if not config.trackers:
        return
    options: dict[str, dict[str, Any]] = {
        "tensorboard": {"purge_step": step + 1} if step else {},
        "wandb": {
            "id": run_dir.run_id, "resume": "allow", "name": run_dir.path.name, "dir": str(run_dir.path),
            "group": config.recipe,
        },
    }  # fmt: skip
    chosen = {name: options[name] for name in config.trackers}
    accelerator.init_trackers(PROJECT, config=_flat(config.to_json_dict()), init_kwargs=chosen)


def _flat(document: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as scalars by dotted name, which is what TensorBoard can show."""
    flat: dict[str, Any] = {}
    for name, value in document.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value if isinstance(value, (int, float, str, bool)) else str(value)
    return flat
