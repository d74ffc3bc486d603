"""A server process with a stand-in for its model and its trainer; settings come from the environment."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import uvicorn

from server.app import create_app
from server.cli import run_server
from server.settings import Settings


def load(spec: Any) -> Any:
    """Every model "loads"; none can analyse, which no test that starts a process asks for."""
    return spec


def main() -> None:
    settings = Settings()
    trainer = (sys.executable, "-I", "-S", str(Path(__file__).with_name("fake_trainer.py")))
    app = create_app(settings, load=load, trainer=trainer)
    run_server(uvicorn.Config(app, port=settings.port, log_level="warning", timeout_graceful_shutdown=30))


if __name__ == "__main__":
    main()
