"""What can be said of one line by itself: fields, types, ranges, a label's share, the order of a dialogue."""

from __future__ import annotations

import difflib
import math
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from pydantic import ValidationError

from emollama.labels import canonical
from emollama.manifest import SPLITS, Sample, describe
from train.data.report import Findings

MAX_LABEL_CHARS = 40
MAX_TEXT_CHARS = 20_000
_TEXTS: Mapping[str, int] = {
    "id": 200, "clip": 200, "transcript": MAX_TEXT_CHARS, "language": 20, "label": MAX_LABEL_CHARS, "split": 20,
    "speaker": 200,
}  # fmt: skip
_NUMBERS: Mapping[str, tuple[float, float]] = {
    "start": (0.0, math.inf), "end": (0.0, math.inf), "valence": (-1.0, 1.0), "arousal": (-1.0, 1.0),
}  # fmt: skip
_ROLES = ("system", "user", "assistant")


@dataclass(kw_only=True)
class Facts:
    """What is known of one line, as far as it can be used; ``sample`` when nothing is wrong with it."""

    line: int
    id: str | None = None
    clip: str | None = None
    start: float | None = None
    end: float | None = None
    words: str = ""
    shares: Mapping[str, float] = field(default_factory=dict)
    shares_field: str = "label"  # or distribution: where the shares stand
    split: str | None = "train"
    speaker: str | None = None
    has_messages: bool = False
    sample: Sample | None = None

    @property
    def top_label(self) -> str | None:
        return max(self.shares, key=lambda name: self.shares[name]) if self.shares else None


class RowChecker:
    """Checks line after line; knows the ids that were there before."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._first_line: dict[str, int] = {}

    def check(self, document: Mapping[str, Any], line: int) -> Facts:
        """Note every problem of one line and return what can be used of it."""
        before = sum(self._findings.counts.values())
        row = _Row(document, line, self._findings)
        row.check_names()
        facts = Facts(line=line)
        facts.id = self._id(row)
        facts.clip = row.clip()
        facts.start, facts.end = row.number("start"), row.number("end")
        facts.words = row.words()
        row.text("language")
        facts.shares = row.shares()
        facts.shares_field = "label" if document.get("distribution") is None else "distribution"
        row.open_vocabulary()
        valence, arousal = row.number("valence"), row.number("arousal")
        facts.has_messages = row.dialogue()
        facts.split = row.split()
        facts.speaker = row.text("speaker")
        row.meta()
        if facts.start is not None and facts.end is not None and facts.end <= facts.start:
            row.add("reversed_times", "end", f"is {facts.end:g}, and start {facts.start:g}", value=facts.end)
        if document.get("clip") is None and not facts.words and document.get("transcript") in (None, ""):
            row.add("no_modality", "clip", "there is no clip and no transcript")
        wants_target = ("label", "distribution", "messages", "open_vocabulary", "valence", "arousal")
        if all(document.get(name) is None for name in wants_target) and valence is None and arousal is None:
            row.add("no_target", None, "the sample says nothing that could be learned")
        if sum(self._findings.counts.values()) == before:
            facts.sample = self._parsed(row)
        return facts

    def _id(self, row: _Row) -> str | None:
        if row.document.get("id") in (None, "") or (
            isinstance(row.document["id"], str) and not row.document["id"].strip()
        ):
            row.add("missing_id", "id", "there is no id")
            return None
        name = row.text("id")
        if name is None:
            return None
        if name in self._first_line:
            message = f"{name!r} stands already in line {self._first_line[name]}"
            row.add("duplicate_id", "id", message, value=name)
            return None
        self._first_line[name] = row.line
        return name

    def _parsed(self, row: _Row) -> Sample | None:
        """Hold the line against the format itself, so that what passes here can be read by training."""
        try:
            return Sample.model_validate(row.document)
        except ValidationError as error:
            for name, message in describe(error):
                row.add("bad_value", name, message)
            return None


class _Row:
    """One line under check."""

    def __init__(self, document: Mapping[str, Any], line: int, findings: Findings) -> None:
        self.document, self.line, self._findings = document, line, findings

    def add(
        self,
        code: str,
        field: str | None,
        message: str,
        *,
        value: object = None,
        allowed: str | None = None,
        remedy: str | None = None,
    ) -> None:
        self._findings.add(
            code, message, line=self.line, field=field, value=value, allowed=allowed, remedy=remedy
        )  # fmt: skip

    def check_names(self) -> None:
        """Every field must be one of the format's; a near miss is named."""
        for name in self.document:
            if name not in Sample.model_fields:
                near = did_you_mean(name, Sample.model_fields)
                self.add(
                    "unknown_field", name, f"the format has no field {name!r}", value=name,
                    allowed=", ".join(Sample.model_fields), remedy=near and f"write {near!r}",
                )  # fmt: skip

    def text(self, name: str) -> str | None:
        """Return a field's text when it is usable."""
        value = self.document.get(name)
        if value is None:
            return None
        if not isinstance(value, str):
            self.wrong_type(name, value, "a text" + (" or null" if name != "id" else ""))
            return None
        return value if self.check_text(name, value, _TEXTS[name]) else None

    def check_text(self, name: str, value: str, longest: int) -> bool:
        if len(value) > longest:
            self.add("too_long", name, f"has {len(value)} characters", value=value, allowed=f"at most {longest}")
            return False
        bad = sorted({char for char in value if not _is_clean(char, many_lines=longest == MAX_TEXT_CHARS)})
        if bad:
            codes = ", ".join(f"U+{ord(char):04X}" for char in bad[:5])
            self.add("control_characters", name, f"holds {codes}", value=value, allowed="printable characters")
            return False
        if not value.strip() and name in ("clip", "label", "speaker"):
            self.add("bad_value", name, "is empty", value=value, remedy="leave the field out, or write its value")
            return False
        return True

    def clip(self) -> str | None:
        """Return the clip's path when it can be looked for below the manifest's folder."""
        clip = self.text("clip")
        wrong = None if clip is None else path_problem(clip)
        if wrong is not None:
            self.add("clip_outside", "clip", wrong, value=clip, allowed="a path relative to the manifest, with /")
            return None
        return clip

    def number(self, name: str) -> float | None:
        value = self.document.get(name)
        if value is None:
            return None
        low, high = _NUMBERS[name]
        return value if self.check_number(name, value, low, high) else None

    def check_number(self, name: str, value: Any, low: float, high: float, *, code: str = "out_of_range") -> bool:
        allowed = f"{low:g} to {high:g}" if math.isfinite(high) else f"from {low:g} up"
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            self.wrong_type(name, value, f"a number, {allowed}")
            return False
        if isinstance(value, int) and abs(value) > 10**15:
            self.add(code, name, "is out of range", value=f"{str(value)[:20]}...", allowed=allowed)
            return False
        if not math.isfinite(value):
            self.add("not_finite", name, f"is {value}", value=value, allowed=allowed)
            return False
        if not low <= value <= high:
            self.add(code, name, f"is {value:g}", value=value, allowed=allowed)
            return False
        return True

    def words(self) -> str:
        value = self.document.get("transcript")
        if isinstance(value, str) and not value.strip():
            self.add("empty_transcript", "transcript", "is empty", value=value)
            return ""
        return (self.text("transcript") or "").strip()

    def shares(self) -> Mapping[str, float]:
        """Return the target as label -> share, empty when there is none that can be used."""
        label = self.text("label")
        distribution = self._distribution()
        if label is None or not distribution:
            return distribution or ({} if label is None else {label: 1.0})
        top = max(distribution, key=lambda name: distribution[name])
        if canonical(top) != canonical(label):
            message = f"is {label!r}, but distribution gives {top!r} the most ({distribution[top]:g})"
            self.add("label_disputed", "label", message, value=label)
            return {}
        return distribution

    def _distribution(self) -> Mapping[str, float]:
        value = self.document.get("distribution")
        if value is None:
            return {}
        if not isinstance(value, dict):
            self.wrong_type("distribution", value, 'an object of label and share, as in {"joy": 0.7, "fear": 0.3}')
            return {}
        if not value:
            self.add("bad_distribution", "distribution", "is empty", allowed="a share for each label, summing to 1")
            return {}
        sound = True
        for name, share in value.items():
            place = f"distribution.{name[:MAX_LABEL_CHARS]}"
            sound &= self.check_text(place, name, MAX_LABEL_CHARS)
            sound &= self.check_number(place, share, 0.0, 1.0, code="bad_distribution")
            if not name.strip():
                self.add("bad_distribution", "distribution", "has a label without a name", allowed="names of labels")
                sound = False
        if not sound:
            return {}
        total = math.fsum(value.values())
        if abs(total - 1.0) > 0.01:
            self.add("bad_distribution", "distribution", f"sums to {total:.4g}", value=total, allowed="1, within 0.01")
            return {}
        return value

    def open_vocabulary(self) -> None:
        value = self.document.get("open_vocabulary")
        if value is None:
            return
        if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
            self.wrong_type("open_vocabulary", value, "a list of words")
            return
        for place, word in enumerate(value):
            self.check_text(f"open_vocabulary.{place}", word, MAX_LABEL_CHARS)
        if not value or not all(word.strip() for word in value):
            self.add(
                "bad_value", "open_vocabulary", "is empty, or holds an empty word", remedy="leave it out, or fill it"
            )

    def dialogue(self) -> bool:
        """Check the turns; return whether there is a dialogue that can be learned."""
        value = self.document.get("messages")
        if value is None:
            return False
        if not isinstance(value, list) or not all(isinstance(turn, dict) for turn in value):
            self.wrong_type("messages", value, 'a list of turns, {"role": ..., "content": ...}')
            return False
        sound = True
        for place, turn in enumerate(value):
            sound &= self._turn(turn, f"messages.{place}")
        roles = [turn.get("role") for turn in value]
        if "assistant" not in roles:
            self.add(
                "no_answer", "messages", f"has {len(roles)} turns and no answer", allowed="a turn of the assistant"
            )
            return False
        turns = roles[1:] if roles[:1] == ["system"] else roles
        if set(turns) <= {"user", "assistant", "system"} and turns != ["user", "assistant"] * (len(turns) // 2):
            order = ", ".join(str(role) for role in roles[:8])
            self.add("role_order", "messages", f"the turns are {order}", value=order)
            return False
        return sound

    def _turn(self, turn: Mapping[str, Any], place: str) -> bool:
        sound = True
        for name in turn:
            if name not in ("role", "content"):
                near = did_you_mean(name, ("role", "content"))
                self.add(
                    "unknown_field", f"{place}.{name}", f"a turn has no field {name!r}", value=name,
                    allowed="role, content", remedy=near and f"write {near!r}",
                )  # fmt: skip
                sound = False
        role, content = turn.get("role"), turn.get("content")
        if role not in _ROLES:
            near = did_you_mean(role, _ROLES) if isinstance(role, str) else None
            self.add(
                "role_order", f"{place}.role", f"is {role!r}"[:80], value=role, allowed=", ".join(_ROLES),
                remedy=near and f"write {near!r}",
            )  # fmt: skip
            sound = False
        if not isinstance(content, str):
            self.wrong_type(f"{place}.content", content, "a text")
            return False
        if not content.strip():
            self.add("empty_message", f"{place}.content", f"the turn of {role!r}"[:60] + " is empty", value=content)
            return False
        return self.check_text(f"{place}.content", content, MAX_TEXT_CHARS) and sound

    def split(self) -> str | None:
        """Return the split, train when none is named, None when it is not one."""
        value = self.document.get("split")
        if value is None:
            return "train"
        if not isinstance(value, str):
            self.wrong_type("split", value, "train, valid, test or null")
            return None
        if value not in SPLITS:
            near = {"dev": "valid", "val": "valid", "validation": "valid"}.get(value.strip().lower())
            near = near or did_you_mean(value, SPLITS)
            self.add(
                "unknown_split", "split", f"is {value[:40]!r}", value=value, allowed=", ".join(SPLITS),
                remedy=near and f"write {near!r}",
            )  # fmt: skip
            return None
        return value

    def meta(self) -> None:
        value = self.document.get("meta")
        if value is None:
            return
        if not isinstance(value, dict) or any(isinstance(inner, (dict, list)) for inner in value.values()):
            self.wrong_type("meta", value, "an object of texts, numbers, true and false")
        else:
            for name, inner in value.items():
                place = f"meta.{name[:40]}"
                if isinstance(inner, float) and not math.isfinite(inner):
                    self.add("not_finite", place, f"is {inner}", value=inner)
                for text in (name, inner):
                    if isinstance(text, str):
                        self.check_text(place, text, MAX_TEXT_CHARS)

    def wrong_type(self, name: str, value: object, allowed: str) -> None:
        kinds = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
        kind = kinds.get(type(value), "a number")
        self.add("wrong_type", name, f"is {kind}", value=value, allowed=allowed)


def path_problem(clip: str) -> str | None:
    """Say what is wrong with a clip's path by itself, or return None."""
    path = PurePosixPath(clip)
    if path.is_absolute() or (len(clip) > 1 and clip[1] == ":"):
        return "is an absolute path"
    if "\\" in clip:
        return "holds a backslash"
    if ".." in path.parts:
        return "holds .."
    return None


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is nearest to a mistyped one, or None."""
    lowered = {other.lower(): other for other in known}
    near = difflib.get_close_matches(name[:60].strip().lower(), list(lowered), n=1, cutoff=0.7)
    return lowered[near[0]] if near else None


def _is_clean(char: str, *, many_lines: bool) -> bool:
    """Say whether a text may hold a character: no controls, no halves of surrogate pairs; texts may have lines."""
    if char.isprintable():
        return True
    # Joiners (in Persian, in emoji), odd spaces and what this Python's tables do not know yet are part of honest text.
    return many_lines and (char in "\n\r\t" or unicodedata.category(char) not in ("Cc", "Cs"))
