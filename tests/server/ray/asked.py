"""What a run of tests asked of services behind a cluster: every route of the document, and the calls behind them."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


class Asked:
    """Counts the answers of every operation, by their status, and the calls of doors into the cluster."""

    def __init__(self) -> None:
        self.answers: dict[str, Counter[int]] = {}
        self.calls: list[Counter[str]] = []
        self._patterns: list[tuple[str, re.Pattern[str], str]] = []

    def watch(self, app: Any) -> None:
        """Count what a service answers from now on; it must not have started."""
        app.add_middleware(_Counting, asked=self)
        if not self._patterns:
            for path, methods in app.openapi()["paths"].items():
                pattern = re.compile(re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(path)))
                for method in methods:
                    name = f"{method.upper()} {path}"
                    self._patterns.append((method.upper(), pattern, name))
                    self.answers.setdefault(name, Counter())
            self._patterns.sort(key=lambda each: "{" in each[2])  # a path that is named as it is comes first

    def count(self, method: str, path: str, status: int) -> None:
        for known, pattern, name in self._patterns:
            if known == method and pattern.fullmatch(path):
                self.answers[name][status] += 1
                return

    def lines(self) -> list[str]:
        """What is said at the end of a run."""
        answered = [name for name, statuses in self.answers.items() if any(status < 400 for status in statuses)]
        missing = sorted(set(self.answers) - set(answered))
        calls = sum(self.calls, Counter())
        return [
            f"{len(answered)} of {len(self.answers)} operations answered without an error",
            *([f"never: {', '.join(missing)}"] if missing else []),
            "calls into the cluster: " + ", ".join(f"{name} {number}" for name, number in sorted(calls.items())),
        ]

    def write(self, path: Path, *, outcomes: dict[str, int], skipped: Sequence[str]) -> None:
        """Write the run as JSON."""
        document = {
            "command": " ".join(["python -m pytest", *sys.argv[1:]]),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "tests": outcomes,
            "not_through_a_cluster": dict(sorted(Counter(skipped).items())),
            "calls": dict(sorted(sum(self.calls, Counter()).items())),
            "answers": {
                name: {str(status): number for status, number in sorted(statuses.items())}
                for name, statuses in sorted(self.answers.items())
            },
        }
        path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


class _Counting:
    def __init__(self, app: Any, asked: Asked) -> None:
        self._app, self._asked = app, asked

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def counted(message: Any) -> None:
            if message["type"] == "http.response.start":
                self._asked.count(scope["method"], scope["path"], message["status"])
            await send(message)

        await self._app(scope, receive, counted if scope["type"] == "http" else send)
