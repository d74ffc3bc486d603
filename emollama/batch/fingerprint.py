"""What a model is, for telling whether a run goes on with the same one; and the versions that it runs on."""

from __future__ import annotations

import hashlib
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from emollama._version import __version__

_PACKAGES = ("torch", "transformers", "numpy", "av", "opencv-python-headless", "ray")
_WHOLE_BYTES = 64 * 2**20  # of larger files the beginning and the end are read, and the size


def fingerprint_of(model: str | Path) -> str | None:
    """Return a sha256 over a model's or adapter's folder; ``None`` when there is no such folder (loading will tell)."""
    from emollama.checkpoint import ASSETS

    folder = ASSETS / model if isinstance(model, str) and (ASSETS / model).is_dir() else Path(model)
    if not folder.is_dir():
        return None
    found = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        found.update(f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\0".encode())
        found.update(_digest(path))
    return found.hexdigest()


def versions() -> dict[str, str]:
    """Return the versions of this program, Python, and the packages that have a say in an answer."""
    found = {"emollama": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _digest(path: Path) -> bytes:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        if path.stat().st_size <= _WHOLE_BYTES:
            return hashlib.file_digest(file, "sha256").digest()
        digest.update(file.read(_WHOLE_BYTES // 2))
        file.seek(-_WHOLE_BYTES // 2, 2)
        digest.update(file.read())
    return digest.digest()
