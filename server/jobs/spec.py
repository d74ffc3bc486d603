"""What a trainer is told: the run directory's ``job.json``, as `train.job.JobSpec` reads it."""

from __future__ import annotations

from typing import Any

from server.jobs.run_folder import RunFolder
from server.records.jobs import JobRecord

MANIFEST = "manifest.jsonl"


def job_document(job: JobRecord, folder: RunFolder, *, base: str, recipe: str) -> dict[str, Any]:
    """Return ``job.json``: the base model, the manifests, and the hyper-parameters, each a number or "auto"."""
    return {
        "model": base,
        "recipe": recipe,
        "manifest": str(folder.training / MANIFEST),
        "validation_manifest": None if job.validation_file is None else str(folder.validation / MANIFEST),
        "seed": job.seed,
        "suffix": job.suffix,
        **job.hyperparameters,
    }
