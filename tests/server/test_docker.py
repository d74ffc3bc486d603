"""The Dockerfile, read as text: docker is not needed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest


@pytest.fixture
def stages(root: Path) -> list[list[tuple[str, str]]]:
    """The instructions of each stage as (name, arguments)."""
    text = (root / "Dockerfile").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    found: list[list[tuple[str, str]]] = []
    for line in joined.splitlines():
        name, _, arguments = line.partition(" ")
        if name == "FROM":
            found.append([])
        if found:
            found[-1].append((name, arguments.strip()))
    return found


def test_the_last_stage_runs_without_privileges_and_is_watched(stages: list[list[tuple[str, str]]]) -> None:
    last = dict(stages[-1])
    uid, gid = (int(part) for part in last["USER"].split(":"))
    assert uid >= 1000
    assert gid >= 1000
    names = [name for name, _ in stages[-1]]
    assert names.index("USER") > max(index for index, name in enumerate(names) if name in ("RUN", "COPY"))
    assert "/health" in last["HEALTHCHECK"]
    assert last["ENTRYPOINT"] == '["emollama"]'
    assert last["CMD"] == '["serve"]'


def test_the_build_is_apart_and_takes_the_index_of_wheels(stages: list[list[tuple[str, str]]]) -> None:
    assert len(stages) == 2
    build = [f"{name} {arguments}" for name, arguments in stages[0]]
    assert any(line.startswith("ARG TORCH_INDEX=") and line.endswith("/cpu") for line in build)
    assert any("constraints.txt" in line and "${TORCH_INDEX}" in line for line in build if line.startswith("RUN"))
    text = "\n".join(build).lower()
    assert not re.search(r"password|secret|token", text)


def test_what_the_build_copies_is_let_in(root: Path, stages: list[list[tuple[str, str]]]) -> None:
    ignored = (root / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in ignored
    for name, arguments in stages[0]:
        if name == "COPY":
            for source in arguments.split()[:-1]:
                assert f"!{source}" in ignored
                assert source == "README.md" or (root / source).exists()
