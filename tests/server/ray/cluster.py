"""One cluster for a whole run of tests, on this machine: started when it is first asked for."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

from server.media_worker import InProcess
from server.models import ModelSpec
from server.ray.decoding import DoorDecoding
from server.ray.door import Door
from server.ray.plan import Plan
from server.ray.settings import RaySettings
from tests.server.ray.asked import Asked
from tests.server.ray.stand_in import Stage

ROOT = Path(__file__).resolve().parents[3]
HERE = "tests.server.ray.stand_in"


class Cluster:
    """Ray with Serve, and two services in it: one whose models are stand-ins of the tests, and nano's."""

    def __init__(self) -> None:
        import ray

        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Ray's own
            ray.init(
                address="local",
                num_cpus=8,
                include_dashboard=False,
                object_store_memory=150_000_000,
                log_to_driver=False,
                namespace="emollama",
                runtime_env={"env_vars": {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}},
            )
        plan = Plan(
            model="stand-in", media_workers=False, encoders_at_once=32, decoder_at_once=64,
            senses=f"{HERE}:StandInSenses", minds=f"{HERE}:StandInMinds",
        )  # fmt: skip
        self._doors: dict[str, Door] = {}
        self.asked = Asked()
        self._stage = Stage(self._open("stand-in", plan).handles())

    def __call__(self, analyzer: Any) -> Any:
        """Return an analyzer that asks the cluster: the library's is nano there, any other one stays where it is."""
        from emollama.analyze import Analyzer

        if isinstance(analyzer, Analyzer):
            return self.nano.load(ModelSpec(name="nano", base="nano"))
        return self._stage.remote(analyzer)

    @property
    def options(self) -> dict[str, Any]:
        """What `create_app` gets beside; a test that wants decoding in processes says so, as without a cluster."""
        return {"decoder": DoorDecoding(InProcess)}

    def watch(self, app: Any) -> None:
        """Count what a service of the tests answers."""
        self.asked.watch(app)

    @property
    def nano(self) -> Door:
        """A door to nano's deployments."""
        return self._doors.get("nano") or self._open("nano", Plan(model="nano"))

    @staticmethod
    def settings(name: str) -> RaySettings:
        return RaySettings(name=name, encoders_max=1, decoder_max=1)

    def _open(self, name: str, plan: Plan) -> Door:
        door = self._doors[name] = Door(plan, self.settings(name))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            door.connect()
            self.asked.calls.append(door.handles().calls.num_made)
        return door

    def close(self) -> None:
        import ray
        from ray import serve

        self._stage.close()
        for door in self._doors.values():
            door.close()
        serve.shutdown()
        ray.shutdown()
