"""What lies in the repository: no traces of the machine it was made on, no large or executable weights."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NANO = ROOT / "emollama" / "assets" / "nano"
# Written in pieces, so that this file does not find itself.
TRACES = re.compile("|".join(("/" + "work/", "/" + "root/", "/" + "opt/pypi", "/" + "home/", "127" + r"\.0\.0\.1:3")))
TEXT = {".py", ".md", ".toml", ".txt", ".yml", ".json", ".cfg", ".html", ".js", ".css", ""}


def tracked() -> list[Path]:
    """Files under version control; without git, all files but those of tools."""
    try:
        done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
        paths = [ROOT / name for name in done.stdout.split("\0") if name]
    except (OSError, subprocess.CalledProcessError):
        skipped = {".git", ".venv", "build", "dist", "__pycache__"}
        paths = [
            path
            for path in ROOT.rglob("*")
            if not skipped & set(path.relative_to(ROOT).parts)
            and path.relative_to(ROOT).parts[0] not in ("runs", "data")
        ]
    return [path for path in paths if path.is_file()]


def test_no_file_names_a_path_of_the_machine_it_was_made_on() -> None:
    found = []
    for path in tracked():
        if path.suffix not in TEXT or path.stat().st_size > 5_000_000:
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if TRACES.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}")
    assert not found


def test_weights_are_data_not_programs() -> None:
    pickles = {".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy", ".npz"}
    assert not [path for path in tracked() if path.suffix in pickles]


@pytest.mark.skipif(not NANO.is_dir(), reason="nano's weights are not in this checkout")
def test_nano_is_at_most_40_megabytes() -> None:
    assert sum(path.stat().st_size for path in NANO.rglob("*") if path.is_file()) <= 40_000_000


def test_nothing_else_is_large() -> None:
    large = [path for path in tracked() if path.stat().st_size > 3_000_000 and not path.is_relative_to(NANO)]
    assert not large


def test_ci_calls_the_test_command_of_the_readme() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    lines = [line for line in script.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    assert lines[0] == "set -euo pipefail"
    assert lines[-1] == "make test"
    assert "make test" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_tested_versions_are_within_what_is_allowed() -> None:
    packaging = pytest.importorskip("packaging.requirements")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = {spell(line.split("==")[0]): line.split("==")[1] for line in lines if "==" in line}
    for line in [*project["dependencies"], *project["optional-dependencies"]["dev"]]:
        requirement = packaging.Requirement(line)
        assert spell(requirement.name) in pins, f"{requirement.name} has no tested version"
        assert requirement.specifier.contains(pins[spell(requirement.name)])


def spell(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_logs_that_back_figures_are_readable_json() -> None:
    for path in (ROOT / "docs" / "logs").glob("*.json"):
        json.loads(path.read_text(encoding="utf-8"))
