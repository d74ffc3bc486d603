"""A run of the builder in a process of its own, for a test that kills it: ``killable_run.py FOLDER URL``.

Twelve samples whose clips need no reading are explained by the endpoint at URL, two at once.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from emollama.endpoint import AnswerCache, ChatEndpoint, EndpointOptions
from emollama.manifest import Manifest, Sample
from train.builders.merr.build import Builder
from train.builders.merr.export import export
from train.builders.merr.observation import Observation
from train.builders.merr.rules import load_rules
from train.builders.merr.state import BuildConfig, RunFolder
from train.builders.merr.writers import EndpointWriter

SAMPLES = tuple(Sample(id=f"s{n}", clip=f"s{n}.mp4", label="sad") for n in range(12))


class Ready:
    """Gives the observation that the test left in the folder."""

    def __init__(self, folder: Path) -> None:
        self._document = json.loads((folder / "observation.json").read_text())

    def read(self, sample: Sample) -> Any:
        # a time of its own makes every prompt, and so every request, another
        document = {**self._document, "peak": {**self._document["peak"], "time": 1.0 + int(sample.id[1:]) / 10}}
        return SimpleNamespace(observation=Observation.from_json_dict(document), understanding=None, picture=None)


def main(folder: Path, url: str) -> None:
    run = RunFolder(folder / "run")
    with run.locked():
        run.open(BuildConfig())
        endpoint = ChatEndpoint(EndpointOptions(base_url=url, model="m"), cache=AnswerCache(run.cache), key="")
        reader: Any = Ready(folder)
        builder = Builder(
            BuildConfig(), run=run, rules=load_rules(), reader=reader, writer=EndpointWriter(endpoint), concurrency=2
        )
        builder.run(builder.remaining(SAMPLES))
        done = export(Manifest(path=folder / "m.jsonl", samples=SAMPLES), run)
    assert done.kept == len(SAMPLES)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
