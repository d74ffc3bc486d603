"""`emollama serve`: run the service; an option given here beats the environment (``EMOLLAMA_*``)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from types import FrameType

    import uvicorn

    from server.media_worker import Decoding
    from server.models import Load
    from server.settings import Settings

app = typer.Typer(add_completion=False, help="Answer over HTTP.")


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on. Default: 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on. Default: 8000.")] = None,
    model: Annotated[str | None, typer.Option(help="Model that answers. Default: nano.")] = None,
    device: Annotated[str | None, typer.Option(help="Torch device. Default: cpu.")] = None,
    log_format: Annotated[str | None, typer.Option(help="json or text. Default: json.")] = None,
    ray: Annotated[bool, typer.Option("--ray", help="Run the models as deployments of Ray Serve.")] = False,
    ray_address: Annotated[
        str | None, typer.Option(help="The Ray cluster that this machine has joined: auto, or host:port of its head.")
    ] = None,
) -> None:
    """Answer over HTTP: POST /analyze, /v1/models, /v1/files, /v1/fine_tuning/jobs, GET /docs.

    Every other setting is read from the environment; docs/api.md lists them.
    """
    # Before numpy is loaded: clips are analysed side by side, one thread each, and OpenBLAS's own threads wait by
    # spinning on cores that others could use.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    given = {"host": host, "port": port, "model": model, "device": device, "log_format": log_format}
    settings = read_settings({name: value for name, value in given.items() if value is not None})
    if ray or ray_address is not None:
        from server.ray.cli import serve_with_ray

        serve_with_ray(settings, address=ray_address)
    else:
        run_server(server_config(settings))


def run_server(config: uvicorn.Config) -> None:
    """Run a service until it is told to stop; streams of events end then, so that they do not hold up the end."""
    import uvicorn

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            config.app.state.stopping.set()  # type: ignore[union-attr]
            super().handle_exit(sig, frame)

    Server(config).run()


def read_settings(given: dict[str, Any]) -> Settings:
    """Return the settings, or end the command with one line for each that is wrong."""
    from server.settings import Settings

    with telling_what_is_wrong():
        return Settings(**given)


@contextlib.contextmanager
def telling_what_is_wrong(prefix: str = "") -> Iterator[None]:
    """End the command with one line for each setting that is wrong; ``prefix`` begins their names."""
    from pydantic import ValidationError

    try:
        yield
    except ValidationError as exc:
        for problem in exc.errors(include_url=False):
            name = prefix + ".".join(str(part) for part in problem["loc"])
            message = problem["msg"].removeprefix("Value error, ")
            typer.echo(f"setting {name} is {problem['input']!r}: {message}", err=True)
        raise typer.Exit(2) from exc


def server_config(settings: Settings, *, load: Load | None = None, decoder: Decoding | None = None) -> uvicorn.Config:
    """Return how uvicorn runs the service: graceful shutdown, our log lines, nothing told about the software.

    ``load`` and ``decoder`` are `create_app`'s.
    """
    import uvicorn

    from server.app import create_app
    from server.logs import log_config

    if not settings.is_loopback and settings.auth == "off":
        typer.echo(
            f"error: {settings.host} is more than this machine, and requests need no key. Set EMOLLAMA_AUTH=keys and "
            "make keys with `emollama keys create`, or EMOLLAMA_AUTH=open when something in front of the service "
            "decides who reaches it.",
            err=True,
        )
        raise typer.Exit(2)
    if not settings.is_loopback and settings.auth == "open":
        typer.echo(
            f"warning: listening on {settings.host}, and requests need no API key: whoever reaches this address may "
            "use the service.",
            err=True,
        )
    return uvicorn.Config(
        create_app(settings, load=load, decoder=decoder),
        host=settings.host,
        port=settings.port,
        root_path=settings.root_path,
        log_config=log_config(level=settings.log_level, style=settings.log_format),
        log_level=settings.log_level,
        access_log=False,
        server_header=False,
        timeout_keep_alive=15,
        # A live session's messages: pictures do not become smaller, and nothing is to become larger, by unpacking them.
        ws_max_size=settings.live_picture_kb * 1024 + 4096,
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=settings.shutdown_seconds,
    )
