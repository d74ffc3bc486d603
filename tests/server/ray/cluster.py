"""One cluster for a whole run of tests, on this machine: started when it is first asked for."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

from tests.server.ray.stand_in import Stage

ROOT = Path(__file__).resolve().parents[3]
HERE = "tests.server.ray.stand_in"


class Cluster:
    """Ray with Serve, and the deployments whose models are stand-ins (and nano's, when a test wants it)."""

    def __init__(self) -> None:
        import ray

        from server.ray.door import Door
        from server.ray.plan import Plan
        from server.ray.settings import RaySettings

        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
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
            self._door = Door(plan, RaySettings(encoders_max=1, decoder_max=1))
            self._door.connect()
            self.stage = Stage(self._door.handles())

    def close(self) -> None:
        import ray
        from ray import serve

        self.stage.close()
        self._door.close()
        serve.shutdown()
        ray.shutdown()
