"""What the deployments are made of: the model, its devices, and what a clip may cost. Travels to every replica."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any

from emollama import __version__
from server.confined_process import WorkerLimits
from server.ray.settings import RaySettings
from server.settings import Settings

SENSES = "server.ray.senses:load_senses"
MINDS = "server.ray.minds:Minds"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """``senses`` and ``minds`` name, as ``module:name``, what makes the two halves of an analyzer of a plan."""

    model: str
    device: str = "cpu"
    engine: str = "auto"
    encoders_device: str = "cpu"
    encoders_at_once: int = 2
    decoder_at_once: int = 16
    adapters_in_memory: int = 4
    media_workers: bool = True
    worker_limits: WorkerLimits = field(default_factory=WorkerLimits)
    senses: str = SENSES
    minds: str = MINDS

    @classmethod
    def of(cls, settings: Settings, ray_settings: RaySettings) -> Plan:
        """Return the plan of these settings."""
        return cls(
            model=settings.model,
            device=settings.device,
            engine=settings.engine,
            encoders_device=ray_settings.encoders_device,
            encoders_at_once=ray_settings.encoders_at_once,
            decoder_at_once=ray_settings.decoder_at_once,
            adapters_in_memory=settings.adapters_in_memory,
            media_workers=settings.media_workers > 0,
            worker_limits=settings.worker_limits(),
        )

    def digest(self, ray_settings: RaySettings) -> str:
        """Return what tells a cluster that serves this from one that serves something else, or other software."""
        scale = ray_settings.model_dump(exclude={"address", "in_flight", "start_seconds"})
        document = json.dumps([__version__, asdict(self), scale], sort_keys=True)
        return hashlib.sha256(document.encode()).hexdigest()[:16]

    def make(self, name: str) -> Any:
        """Call what ``name`` (``module:name``) stands for with this plan."""
        from importlib import import_module

        module, _, attribute = name.partition(":")
        return getattr(import_module(module), attribute)(self)
