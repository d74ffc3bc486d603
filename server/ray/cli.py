"""The process of `emollama serve --ray`."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import typer

from emollama.errors import DependencyError

if TYPE_CHECKING:
    from types import FrameType

    from server.settings import Settings


def serve_with_ray(settings: Settings, *, address: str | None) -> None:
    """Join the cluster, or start Ray on this machine, and answer over HTTP until the process is told to stop."""
    from server.cli import run_server, server_config, telling_what_is_wrong
    from server.ray.decoding import DoorDecoding
    from server.ray.door import Door, prepare_ray
    from server.ray.settings import RaySettings

    try:
        prepare_ray()
    except DependencyError as exc:
        typer.echo(f"error: {exc}", err=True)
        raise typer.Exit(2) from exc
    with telling_what_is_wrong("ray_"):
        given = {} if address is None else {"address": address}
        ray_settings = RaySettings(**given)  # type: ignore[arg-type]
    # A thread waits for each request that is under way, and works for none of them.
    settings = settings.model_copy(update={"concurrency": ray_settings.in_flight})
    door = Door.of(settings, ray_settings)
    config = server_config(settings, load=door.load, decoder=DoorDecoding.of(settings))
    try:
        door.connect()
    except (ConnectionError, RuntimeError) as exc:
        where = "Ray could not be started here" if ray_settings.address is None else "the cluster could not be joined"
        typer.echo(f"error: {where}: {exc}", err=True)
        raise typer.Exit(1) from exc
    # When it has drained, the server raises the signal again that told it to stop; what was started here is to be
    # stopped then, not left behind.
    signal.signal(signal.SIGTERM, _end)
    try:
        run_server(config)
    finally:
        door.close()


def _end(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)  # told again, it ends at once
    raise SystemExit(0)
