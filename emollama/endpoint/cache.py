"""Answers on disk, addressed by the content of the request: the same request is sent once, in this run or another.

An entry is one JSON file, written to a temporary name and renamed. Pictures inside a request are stored as their hash;
keys and other headers never get here. An entry that cannot be read counts as absent and is written anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def request_sha256(url: str, body: Mapping[str, Any]) -> str:
    """Return the address of a request: the hash of where it goes and of all that is sent but the key."""
    canonical = json.dumps([url, body], sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


class AnswerCache:
    """A folder of answers; safe with several threads and processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def get(self, address: str) -> dict[str, Any] | None:
        """Return the stored answer of a request, or ``None``."""
        try:
            document = json.loads(self._path(address).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        answer = document.get("answer") if isinstance(document, dict) else None
        return answer if isinstance(answer, dict) and isinstance(answer.get("text"), str) else None

    def put(self, address: str, *, url: str, body: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
        """Store an answer together with its request, so that the cache can be read by people."""
        path = self._path(address)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.partial")
        document = {"url": url, "request": _without_pictures(body), "answer": answer}
        partial.write_text(json.dumps(document, ensure_ascii=False, indent=1), encoding="utf-8")
        os.replace(partial, path)

    def _path(self, address: str) -> Path:
        return self.folder / address[:2] / f"{address}.json"


def _without_pictures(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_pictures(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_pictures(item) for item in value]
    if isinstance(value, str) and value.startswith("data:"):
        return f"sha256:{hashlib.sha256(value.encode()).hexdigest()}"
    return value
