"""A server process with stand-ins for its model and its trainer; settings come from the environment.

A clip whose name starts with "waits" is analysed when there is a file "go" in the data folder.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import uvicorn

from server.app import create_app
from server.cli import run_server
from server.settings import Settings


class Analyzer:
    """Notes which clips it has begun, one line each, in "begun.log" in the data folder."""

    def __init__(self, data: Path) -> None:
        self._data = data

    def analyze(self, source: Path, *, name: str, cancelled: Any, **options: Any) -> Any:
        from tests.server.conftest import make_analysis

        with (self._data / "begun.log").open("a") as log:
            log.write(f"{os.getpid()} {name}\n")
        while name.startswith("waits") and not (self._data / "go").exists():
            if cancelled():
                raise RuntimeError("stopped")
            time.sleep(0.01)
        return make_analysis(clip=name)

    def stages(self, source: Path, **options: Any) -> Any:
        from emollama.stages import Done

        yield Done(analysis=self.analyze(source, **options))


def main() -> None:
    settings = Settings()
    trainer = (sys.executable, "-I", "-S", str(Path(__file__).with_name("fake_trainer.py")))
    analyzer = Analyzer(settings.data_folder())
    app = create_app(settings, load=lambda spec: analyzer, trainer=trainer)
    run_server(uvicorn.Config(app, port=settings.port, log_level="warning", timeout_graceful_shutdown=30))


if __name__ == "__main__":
    main()
