"""What every evaluation leaves behind: a table for the reader and a JSON file that says how it came about.

The file repeats the command, the git revision, the package versions, the machine and the date, so that a figure in a
document can be traced to the run that gave it.
"""

from __future__ import annotations

import datetime
import json
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from emollama.cores import usable_cores

PACKAGES = (
    "emollama", "torch", "transformers", "numpy", "av", "opencv-python-headless", "tokenizers", "onnxruntime",
    "scikit-learn",
)  # fmt: skip


def provenance() -> dict[str, Any]:
    """Return the command, revision, versions, machine and date of this run as plain JSON types."""
    return {
        "command": command_line(),
        "git_revision": git_revision(Path(__file__).resolve().parent.parent),
        "versions": {"python": platform.python_version(), **package_versions()},
        "machine": {"system": platform.system(), "cpu": cpu_name(), "usable_cores": usable_cores()},
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def command_line() -> str:
    """Return the command as the user would type it, without the folder the program lies in."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def git_revision(folder: Path) -> str | None:
    """Return the commit of a checkout, with ``+changes`` when files differ from it; ``None`` outside of one."""
    try:
        revision = _git(folder, "rev-parse", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return None
    return revision + ("+changes" if changed else "")


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def package_versions() -> dict[str, str]:
    """Return the versions of the packages that results depend on, of those that are installed."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def cpu_name() -> str:
    """Return the processor's name as the system gives it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write a report: to a temporary name first, so that a reader never sees half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    partial.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(path)


def flatten(result: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return the rows of a result's table: dotted names and printed values; lists stay in the JSON file.

    ``{"uar": 0.75123, "recall": {"anger": 0.9}}`` gives ``{"uar": "0.7512", "recall.anger": "0.9000"}``.
    """
    rows: dict[str, str] = {}
    for key, value in result.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            rows |= flatten(value, prefix=f"{name}.")
        elif isinstance(value, float):
            rows[name] = f"{value:.4f}"
        elif not isinstance(value, (list, tuple)):
            rows[name] = str(value)
    return rows


def print_rows(console: Console, title: str, rows: Mapping[str, str]) -> None:
    """Show names and values as a table of two columns."""
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column("name", overflow="fold")
    table.add_column("value", justify="right", overflow="fold")
    for name, value in rows.items():
        table.add_row(name, value)
    console.print(table)
