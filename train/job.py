"""``python -m train.job RUN_DIR``: one fine-tuning job in one process and one folder, as the service starts it.

RUN_DIR/job.json (`JobSpec`) says what to do; everything else in the folder is written here and by the loop:
``config.json``, ``metrics.jsonl``, ``checkpoints/``, ``exports/step-N/`` (a servable adapter for each validation),
``export/`` (the adapter), ``error.json`` when it failed. Started again in the same folder, it goes on from the last
checkpoint. SIGTERM and SIGINT end it after a checkpoint.

Exit codes: 0 done, 2 the input was wrong, 3 training failed, 130 stopped.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from emollama.cores import usable_cores
from emollama.errors import CheckpointError, EmoLlamaError, InputError, TrainingError
from train.auto import Auto, choose
from train.config import TrainConfig

logger = logging.getLogger("train.job")

DONE, BAD_INPUT, FAILED, STOPPED = 0, 2, 3, 130


@dataclass(frozen=True, kw_only=True)
class JobSpec:
    """What a job is to do.

    Paths are absolute or relative to the run directory; ``overrides`` maps keys of the config
    to values, as in ``{"task.balance": 1.0}``."""

    model: str
    manifest: str
    validation_manifest: str | None = None
    recipe: str = "instruct"
    seed: int = 0
    n_epochs: int | Auto = "auto"
    batch_size: int | Auto = "auto"
    learning_rate_multiplier: float | Auto = "auto"
    suffix: str | None = None
    cache: str | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> JobSpec:
        """Read ``job.json``; a missing file or an unknown or missing key raises `InputError`."""
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}", field="run_dir") from error
        except (ValueError, TypeError, AttributeError) as error:
            raise InputError(f"{path} is no job: {error}", field="run_dir") from error


def main(arguments: list[str] | None = None) -> int:
    """Run the job of a run directory and return the exit code; the edge of the process."""
    given = sys.argv[1:] if arguments is None else arguments
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(name)s %(message)s")
    if len(given) != 1:
        logger.error("usage: python -m train.job RUN_DIR")
        return BAD_INPUT
    folder = Path(given[0])
    (folder / "error.json").unlink(missing_ok=True)
    try:
        return run_job(folder)
    except InterruptedError:
        return STOPPED
    except (TrainingError, CheckpointError) as error:
        return _fail(folder, FAILED, code="training_failed", message=str(error), param=error.field)
    except EmoLlamaError as error:
        return _fail(folder, BAD_INPUT, code="invalid_input", message=str(error), param=error.field)
    except Exception as error:  # the process's edge: the folder says why it ended
        logger.error("unplanned error", exc_info=error)
        return _fail(folder, FAILED, code="internal_error", message=f"{type(error).__name__}: {error}", param=None)


def run_job(folder: Path) -> int:
    """Prepare and train; returns `DONE` or `STOPPED`, raises what is wrong."""
    from train.loop import run

    spec = JobSpec.load(folder / "job.json")
    config = configure(spec, folder)
    with _stopping() as stopped:
        task = config.task.build(config)
        config = choose(
            config,
            num_samples=len(task.samples["train"]),
            num_valid=len(task.samples["valid"]),
            n_epochs=spec.n_epochs,
            batch_size=spec.batch_size,
            learning_rate_multiplier=spec.learning_rate_multiplier,
        )
        config = _as_before(config, folder)
        task.config = config
        report = _Progress(folder)
        task.prepare(on_progress=report, stopped=stopped.is_set)
        if stopped.is_set():
            return STOPPED
    result = run(task.config, task, resume=(folder / "config.json").is_file())
    return STOPPED if result.interrupted else DONE


def configure(spec: JobSpec, folder: Path) -> TrainConfig:
    """Return the recipe's config with the job's paths, seed and overrides; ``choose`` fills in the rest."""
    from train.clip_task import ClipOptions
    from train.config import override
    from train.recipes import load_recipe

    config = load_recipe(spec.recipe)
    if not isinstance(config.task, ClipOptions):
        raise InputError(f"recipe is {spec.recipe!r}; allowed: one that trains on a manifest", field="recipe")
    options = dataclasses.replace(
        config.task,
        model=spec.model,
        manifest=str(folder / spec.manifest),
        validation="" if spec.validation_manifest is None else str(folder / spec.validation_manifest),
        cache=str(folder / (spec.cache or "features")),
    )
    # One core is left to the service: two threads that wait for each other on a busy core are slower than one alone.
    threads = min(config.threads, max(1, usable_cores() - 1)) if config.threads else 0
    config = dataclasses.replace(
        config, task=options, run_dir=str(folder), seed=spec.seed, export_dir=None, threads=threads
    )
    values = {key: value if isinstance(value, str) else json.dumps(value) for key, value in spec.overrides.items()}
    changed: TrainConfig = override(config, [f"{key}={value}" for key, value in values.items()])
    return changed


def _as_before(config: TrainConfig, folder: Path) -> TrainConfig:
    """Of a run that began already keep what was chosen then; the rules for ``auto`` may have changed since."""
    path = folder / "config.json"
    if not path.is_file():
        return config
    saved = json.loads(path.read_text(encoding="utf-8"))
    names = ("epochs", "batch_size", "learning_rate", "projector_learning_rate", "validate_every_epochs")
    return dataclasses.replace(config, **{name: saved[name] for name in names if name in saved})


class _Progress:
    """Writes how many clips have been read into ``metrics.jsonl``, now and then."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "metrics.jsonl"
        self._told = -1

    def __call__(self, done: int, total: int) -> None:
        import time

        share = 20 * done // max(1, total)
        if share == self._told and done != total:
            return
        self._told = share
        with self._path.open("a", encoding="utf-8") as file:
            line = {"event": "features", "time": round(time.time(), 1), "done": done, "total": total}
            file.write(json.dumps(line) + "\n")


@contextmanager
def _stopping() -> Iterator[threading.Event]:
    """While clips are read, SIGTERM and SIGINT are an event; afterwards the loop has handlers of its own."""
    event = threading.Event()
    previous: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        previous = {s: signal.signal(s, lambda *_: event.set()) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _fail(folder: Path, exit_code: int, *, code: str, message: str, param: str | None) -> int:
    from emollama.tensors import write_json

    logger.error("%s", message)
    if folder.is_dir():
        write_json(folder / "error.json", {"code": code, "message": message, "param": param})
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
