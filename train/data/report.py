"""What a check found: problems with file, line, field, value and remedy; what is there; what training will cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from train.data.codes import CODES, Severity
from train.data.cost import Cost


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is wrong. ``line`` is None when it is the file, or the set, and not one line of it."""

    code: str
    message: str
    remedy: str
    severity: Severity
    file: str
    line: int | None = None
    field: str | None = None
    value: str | None = None
    allowed: str | None = None

    def __str__(self) -> str:
        where = self.file if self.line is None else f"{self.file}:{self.line}"
        named = f"{self.field}: " if self.field else ""
        allowed = f"; allowed: {self.allowed}" if self.allowed else ""
        return f"{where}: {self.severity}: {named}{self.message}{allowed} -> {self.remedy} [{self.code}]"

    def to_json_dict(self) -> dict[str, Any]:
        return {
            "code": self.code,
            "severity": self.severity,
            "file": self.file,
            "line": self.line,
            "field": self.field,
            "message": self.message,
            "value": self.value,
            "allowed": self.allowed,
            "remedy": self.remedy,
        }


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a manifest holds: samples by split and label, people, and seconds of clips that could be read."""

    num_samples: int
    splits: Mapping[str, int]
    labels: Mapping[str, Mapping[str, int]]  # split -> label -> samples
    num_speakers: int
    num_clips: int
    clip_seconds: float
    with_words: int
    with_messages: int

    def to_json_dict(self) -> dict[str, Any]:
        return {
            "num_samples": self.num_samples,
            "splits": dict(self.splits),
            "labels": {split: dict(counts) for split, counts in self.labels.items()},
            "num_speakers": self.num_speakers,
            "num_clips": self.num_clips,
            "clip_seconds": round(self.clip_seconds, 3),
            "with_words": self.with_words,
            "with_messages": self.with_messages,
        }


@dataclass(frozen=True, kw_only=True)
class Seen:
    """Who and what a file trains on, and the line where each stands first: a file for validation must not hold it."""

    file: str
    speakers: Mapping[str, int]
    contents: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Report:
    """The outcome of one check. ``counts`` holds every problem by code; ``problems`` the first of them, by line."""

    file: str
    problems: tuple[Problem, ...]
    counts: Mapping[str, int]
    summary: Summary | None = None
    cost: Cost | None = None
    seen: Seen | None = None

    @property
    def num_errors(self) -> int:
        return sum(count for code, count in self.counts.items() if CODES[code].severity == "error")

    @property
    def num_warnings(self) -> int:
        return sum(self.counts.values()) - self.num_errors

    @property
    def ok(self) -> bool:
        """Say whether the data can be trained on."""
        return self.num_errors == 0

    @property
    def errors(self) -> tuple[Problem, ...]:
        return tuple(problem for problem in self.problems if problem.severity == "error")

    def to_json_dict(self) -> dict[str, Any]:
        return {
            "file": self.file,
            "ok": self.ok,
            "num_errors": self.num_errors,
            "num_warnings": self.num_warnings,
            "counts": dict(self.counts),
            "problems": [problem.to_json_dict() for problem in self.problems],
            "summary": None if self.summary is None else self.summary.to_json_dict(),
            "cost": None if self.cost is None else self.cost.to_json_dict(),
        }

    def to_text(self) -> str:
        """Return the report for a person: a line for each problem, then the counts."""
        lines = [str(problem) for problem in self.problems]
        hidden = sum(self.counts.values()) - len(self.problems)
        if hidden:
            lines.append(f"... and {hidden} more")
        if self.summary is not None:
            of_splits = ", ".join(f"{count} {split}" for split, count in self.summary.splits.items())
            lines.append(
                f"{self.summary.num_samples} samples ({of_splits or 'none'}), {self.summary.num_clips} clips, "
                f"{self.summary.clip_seconds:.1f} s, {self.summary.num_speakers} speakers"
            )
        if self.cost is not None:
            lines.append(self.cost.to_text())
        lines.append(f"{self.file}: {_count(self.num_errors, 'error')}, {_count(self.num_warnings, 'warning')}")
        return "\n".join(lines)


@dataclass(kw_only=True)
class Findings:
    """Collects problems while a check goes on: counts all, keeps the first ``max_listed``, errors before warnings."""

    file: str
    max_listed: int = 1000
    counts: Counter[str] = field(default_factory=Counter)
    _kept: dict[Severity, list[Problem]] = field(default_factory=lambda: {"error": [], "warning": []})

    def add(
        self,
        code: str,
        message: str,
        *,
        line: int | None = None,
        field: str | None = None,
        value: object = None,
        allowed: str | None = None,
        remedy: str | None = None,
    ) -> None:
        """Note one problem; its severity, and its remedy when none is given, come from `CODES`."""
        known = CODES[code]
        self.counts[code] += 1
        kept = self._kept[known.severity]
        if len(kept) < self.max_listed:
            kept.append(
                Problem(
                    code=code,
                    message=_printable(message),
                    remedy=_printable(remedy or known.remedy),
                    severity=known.severity,
                    file=self.file,
                    line=line,
                    field=None if field is None else shown(field),
                    value=None if value is None else shown(value),
                    allowed=None if allowed is None else _printable(allowed),
                )
            )

    def report(self, *, summary: Summary | None = None, cost: Cost | None = None, seen: Seen | None = None) -> Report:
        """Return what was found, in the order of the lines; errors are kept before warnings when there are too many."""
        kept = [*self._kept["error"], *self._kept["warning"]][: self.max_listed]
        kept.sort(key=lambda problem: problem.line or 0)
        return Report(
            file=self.file,
            problems=tuple(kept),
            counts=dict(sorted(self.counts.items())),
            summary=summary,
            cost=cost,
            seen=seen,
        )


def shown(value: object) -> str:
    """Return a value as one printable line of at most 80 characters."""
    text = _printable((value if isinstance(value, str) else repr(value))[:200])
    return text if len(text) <= 80 else text[:77] + "..."


def _printable(text: str) -> str:
    """Escape what a terminal or a log must not receive from a file."""
    return "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in text)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
