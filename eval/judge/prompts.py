"""The judge's wording: versioned Markdown files with a system text and the same question in several phrasings.

A file begins with ``name`` and ``version`` between two lines ``---``; then come ``# system`` once and ``# user`` once
for every phrasing, the first one asked first. What is put in (``{text}``) is written as JSON, so that no text under
judgement can end its own quotation. A changed wording is a new version; the file's sha256 goes into every result.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emollama.endpoint import Prompt
from emollama.errors import InputError, UnknownNameError

FOLDER = Path(__file__).resolve().parent.parent / "prompts"
_HEAD = re.compile(r"---\nname: (?P<name>\w+)\nversion: (?P<version>\d+)\n---\n", flags=re.ASCII)
_FIELD = re.compile(r"\{\{|\}\}|\{(\w+)\}")


@dataclass(frozen=True, kw_only=True)
class PromptFile:
    """One prompt: its phrasings in the order in which they are tried, and what tells it from others."""

    name: str
    version: int
    sha256: str
    system: str
    phrasings: tuple[str, ...]

    def render(self, fields: Mapping[str, Any], *, phrasing: int) -> Prompt:
        """Fill one phrasing; every field is written as JSON. A field too few or too many raises `InputError`."""
        wanted = {match[1] for match in _FIELD.finditer(self.phrasings[phrasing]) if match[1]}
        if wanted != set(fields):
            raise InputError(f"prompt {self.name!r} takes {sorted(wanted)}, not {sorted(fields)}", field="fields")

        def fill(match: re.Match[str]) -> str:
            if match[1] is None:
                return match[0][0]
            return json.dumps(fields[match[1]], ensure_ascii=False)

        user = _FIELD.sub(fill, self.phrasings[phrasing])
        return Prompt(
            messages=({"role": "system", "content": self.system}, {"role": "user", "content": user}), sha256=self.sha256
        )

    def to_json_dict(self) -> dict[str, Any]:
        return {"name": self.name, "version": self.version, "sha256": self.sha256}


def load_prompt(name: str, *, folder: Path = FOLDER) -> PromptFile:
    """Read a prompt by name; raises `UnknownNameError` with those that exist, `InputError` for a malformed file."""
    path = folder / f"{name}.md"
    known = sorted(entry.stem for entry in folder.glob("*.md"))
    if name not in known:
        raise UnknownNameError("prompt", name, known)
    content = path.read_bytes()
    text = content.decode()
    head = _HEAD.match(text)
    if head is None or head["name"] != name:
        raise InputError(f"{path} does not begin with its name {name} and a version", field="prompt")
    parts = re.split(r"^# (system|user)\n", text[head.end() :], flags=re.MULTILINE)
    sections = [(title, body.strip()) for title, body in zip(parts[1::2], parts[2::2], strict=True)]
    systems = [body for title, body in sections if title == "system"]
    phrasings = tuple(body for title, body in sections if title == "user")
    if parts[0].strip() or len(systems) != 1 or len(phrasings) < 2:
        raise InputError(f"{path} must hold one part '# system' and at least two parts '# user'", field="prompt")
    return PromptFile(
        name=name,
        version=int(head["version"]),
        sha256=hashlib.sha256(content).hexdigest(),
        system=systems[0],
        phrasings=phrasings,
    )
