"""A cluster of two nodes on this machine and a door to it, in one process: ``python two_nodes.py``.

Settings come from the environment. A line on standard input kills the node that the door is not on,
as soon as all replicas take calls.
"""

from __future__ import annotations

import sys
import threading
import time

import ray
from ray import serve
from ray.cluster_utils import Cluster

from server.cli import run_server, server_config
from server.ray.decoding import DoorDecoding
from server.ray.door import Door
from server.ray.settings import RaySettings
from server.settings import Settings


def main() -> None:
    room = {"num_cpus": 2, "object_store_memory": 100_000_000}
    cluster = Cluster(initialize_head=True, head_node_args={"include_dashboard": False, **room})
    # Two nodes have one address here, and whoever joins the cluster later may be on either.
    ray.init(address=cluster.address, log_to_driver=False)
    far = cluster.add_node(**room)
    cluster.wait_for_nodes()

    def all_run() -> bool:
        """Whether all replicas take calls; one that is still loading has nothing to lose."""
        found = serve.status().applications.values()
        states = [each.replica_states for app in found for each in app.deployments.values()]
        return len(states) == 2 and all(state == {"RUNNING": 2} for state in states)

    def obey() -> None:
        sys.stdin.readline()
        while not all_run():
            time.sleep(0.1)
        cluster.remove_node(far, allow_graceful=False)

    ray_settings = RaySettings(
        address=cluster.address, encoders_min=2, encoders_max=2, encoders_per_machine=1, decoder_min=2, decoder_max=2,
        decoder_per_machine=1,
    )  # fmt: skip
    settings = Settings().model_copy(update={"concurrency": ray_settings.in_flight})
    door = Door.of(settings, ray_settings)
    config = server_config(settings, load=door.load, decoder=DoorDecoding.of(settings))
    door.connect()
    threading.Thread(target=obey, daemon=True).start()
    run_server(config)


if __name__ == "__main__":
    main()
