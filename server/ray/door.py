"""The door: the process that clients talk to, whose models are deployments in a cluster.

It is `server.app.create_app` as ever, with a loader that gives analyzers which call the cluster. Several doors may
serve one cluster, on as many machines; the first one makes the deployments, and one with other settings changes them,
replica after replica, without a request being lost. Doors that joined a cluster leave it as it is when they end; one
that started Ray itself stops it.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

from emollama.errors import DependencyError
from server.errors import ApiError
from server.ray.adapters import PackedAdapter
from server.ray.analyzer import Handles, RemoteAnalyzer
from server.ray.calls import Calls
from server.ray.deployments import PARTS, application_of, applications
from server.ray.plan import Plan
from server.ray.settings import RaySettings
from server.ray.wire import Model

if TYPE_CHECKING:
    from server.models import ModelSpec
    from server.settings import Settings

logger = logging.getLogger("server.ray.door")

_PROBE_SECONDS = 10.0
_LOGGING = {"log_level": "WARNING", "encoding": "JSON", "enable_access_log": False}


def prepare_ray() -> None:
    """Set what Ray reads from the environment when it is imported, and import it; raises `DependencyError` if it fails.

    Ray tells its makers how it is used unless it is told not to, and this service tells nobody anything.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray.serve  # noqa: F401
    except ImportError as exc:
        raise DependencyError(
            "serving with Ray needs the extra 'ray': pip install 'emollama[ray]'", field="ray"
        ) from exc
    # What Ray says in this process is said as the service says things, and only when something is wrong.
    for name in ("ray", "ray.serve"):
        ours = logging.getLogger(name)
        ours.handlers.clear()
        ours.propagate = True
        ours.setLevel(logging.WARNING)


class Door:
    """A door's connection to its cluster; `load` is what `create_app` takes to load a model."""

    def __init__(self, plan: Plan, settings: RaySettings) -> None:
        self._plan, self._settings = plan, settings
        self._started_ray = False
        self._lock = threading.Lock()
        self._handles: Handles | None = None

    @classmethod
    def of(cls, settings: Settings, ray_settings: RaySettings) -> Door:
        return cls(Plan.of(settings, ray_settings), ray_settings)

    def connect(self) -> None:
        """Join the cluster, or start Ray on this machine; call it in the main thread. Blocks for seconds."""
        prepare_ray()
        import ray

        on_terminate = signal.getsignal(signal.SIGTERM)
        if not ray.is_initialized():
            self._started_ray = self._settings.address is None
            where: dict[str, Any] = {"address": self._settings.address}
            if self._started_ray:
                where = {"address": "local", "include_dashboard": False}
            ray.init(**where, namespace="emollama", log_to_driver=False, configure_logging=False)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_terminate)  # Ray's own would end the process before it has drained

    def load(self, spec: ModelSpec) -> RemoteAnalyzer:
        """Return an analyzer of the cluster for a model or adapter, once it answers there; raises what is wrong."""
        import ray

        handles = self.handles()
        model = Model(base=spec.base)
        if spec.adapter is not None:
            packed = PackedAdapter.of(spec.adapter)
            model = Model(base=spec.base, name=spec.name, adapter=packed.digest, packed=(ray.put(packed),))
        analyzer = RemoteAnalyzer(handles, model)
        analyzer.admit(seconds=self._settings.start_seconds)
        return analyzer

    def close(self) -> None:
        """Leave the cluster; what this door started itself is stopped."""
        import ray
        from ray import serve

        if self._handles is not None:
            self._handles.calls.close()
        if self._started_ray:
            serve.shutdown()
            ray.shutdown()

    def handles(self) -> Handles:
        """Make the deployments, unless the cluster has them, and return how to call them."""
        with self._lock:
            if self._handles is None:
                from ray import serve

                calls = Calls(seconds=self._settings.start_seconds)
                if not self._is_deployed(calls):
                    self._deploy()
                encoders, decoder = (serve.get_app_handle(name) for name in self._names())
                self._handles = Handles(encoders=encoders, decoder=decoder, calls=calls)
            return self._handles

    def _names(self) -> list[str]:
        return [application_of(part, self._settings) for part in PARTS]

    def _deploy(self) -> None:
        from ray import serve
        from ray.serve.api import RunTarget

        began = time.perf_counter()
        # No proxies: clients talk to doors.
        serve.start(proxy_location="Disabled", logging_config=_LOGGING)
        bound = applications(self._plan, self._settings)
        serve.run_many(
            [RunTarget(target, name=name, route_prefix=None, logging_config=_LOGGING) for name, target in bound.items()]
        )
        fields = {"model": self._plan.model, "seconds": round(time.perf_counter() - began, 3)}
        logger.info("deployments are running", extra={"fields": fields})

    def _is_deployed(self, calls: Calls) -> bool:
        """Whether the cluster serves exactly this."""
        from ray import serve
        from ray.serve.exceptions import RayServeException

        try:
            found = serve.status().applications
        except RayServeException:  # Serve does not run there
            return False
        if any(name not in found or found[name].status != "RUNNING" for name in self._names()):
            return False
        wanted = self._plan.digest(self._settings)
        for name in self._names():
            handle = serve.get_app_handle(name).options(stream=True)
            try:
                if calls.one(handle.digest.remote, what="digest", seconds=_PROBE_SECONDS) != wanted:
                    return False
            except ApiError:
                return False
        return True
