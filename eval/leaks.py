"""Leaks: clips or people of the evaluated split that the model has been trained on.

Compared are the items with the manifest that the model was trained with (named by the user, or found beside an
adapter's run) and with the task's own training splits. The same clip is the same bytes (of a file, within an
overlapping stretch) or the same decoded pictures and sound; the same person is the same speaker name. Either stops the
run unless it is allowed by name. The same words alone are no leak, since people say "thank you" everywhere; they are
counted and said.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from emollama.errors import DatasetError, InputError
from emollama.types import Clip
from eval.score_files import some
from eval.task import EvalTask, Item

KINDS = ("clip", "speaker")


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Something that a model may have been trained on."""

    id: str
    path: Path | None = None
    load: Callable[[], Clip] | None = None
    start: float | None = None
    end: float | None = None
    speaker: str | None = None
    words: str | None = None


@dataclass(frozen=True, kw_only=True)
class Leak:
    """``names`` are the evaluated items (or the speakers) that stand in ``source`` too."""

    kind: str
    source: str
    names: tuple[str, ...]
    num_items: int


@dataclass(kw_only=True)
class LeakReport:
    """What was compared with what, what was found, and what was allowed to stay."""

    checked: list[str] = field(default_factory=list)
    found: list[Leak] = field(default_factory=list)
    allowed: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_json_dict(self) -> dict[str, Any]:
        return {
            "checked": self.checked,
            "found": [
                {"kind": leak.kind, "source": leak.source, "num_items": leak.num_items, "names": list(leak.names[:20])}
                for leak in self.found
            ],
            "allowed": self.allowed,
        }


def check_leaks(
    task: EvalTask,
    items: Sequence[Item],
    *,
    data: Path,
    split: str,
    manifests: Sequence[Path] = (),
    allow: Sequence[str] = (),
) -> LeakReport:
    """Compare items with training manifests and the task's training splits; a leak that is not allowed raises.

    ``allow`` holds kinds (``clip``, ``speaker``) or single ones (``speaker:03``, ``clip:NAME``).
    """
    for name in allow:
        if name.partition(":")[0] not in KINDS:
            raise InputError(
                f"allow_leak {name!r} is not allowed; {', '.join(KINDS)}, or one of them by name: speaker:NAME",
                field="allow_leak",
            )
    report = LeakReport(allowed=list(allow))
    fingers = _Fingers(items)
    for manifest in manifests:
        _compare(items, fingers, read_references(manifest), f"training manifest {manifest.name}", report)
    for other in task.splits:
        if not other.startswith("train"):
            continue
        if other == split:
            report.notes.append("this is the training split: a model that was trained on this set has seen it")
            continue
        if data.is_file():
            report.notes.append(f"one file was given, so the split {other} was not there to be compared with")
            continue
        try:
            others = [_reference(item) for item in task.items(data, other)]
        except DatasetError as error:
            report.notes.append(f"the split {other} is not there to be compared with: {error}")
            continue
        _compare(items, fingers, others, f"split {other} of {task.name}", report)
    stopping = []
    for leak in report.found:
        left = [name for name in leak.names if leak.kind not in allow and f"{leak.kind}:{name}" not in allow]
        if left:
            stopping.append(
                f"{leak.num_items} of {len(items)} items share a {leak.kind} with the {leak.source}: {some(left)}"
            )
        else:
            report.notes.append(
                f"LEAK, allowed by name: {leak.num_items} of {len(items)} items share a {leak.kind} with the "
                f"{leak.source}; the figures say little of clips that the model never saw"
            )
    if stopping:
        kinds = " ".join(f"--allow-leak {kind}" for kind in dict.fromkeys(leak.kind for leak in report.found))
        raise DatasetError(
            f"{'; '.join(stopping)}. A model that was trained on these cannot be judged by them; take them out, or say "
            f"that it is meant: {kinds}",
            field="allow_leak",
        )
    return report


def read_references(manifest: Path) -> list[Reference]:
    """Return the rows of a training manifest that a model sees while it is trained: all but the test split."""
    from emollama.manifest import read_manifest

    read = read_manifest(manifest)
    return [
        Reference(
            id=sample.id,
            path=None if sample.clip is None else read.folder / sample.clip,
            start=sample.start,
            end=sample.end,
            speaker=sample.speaker,
            words=sample.transcript if sample.clip is None else None,
        )
        for sample in read.samples
        if sample.split != "test"
    ]


def training_manifest_of(model: str) -> Path | None:
    """Return the manifest that an adapter was trained with, when it still lies in its run's folder."""
    folder = Path(model).absolute()
    if not (folder / "adapter_config.json").is_file():
        return None
    for parent in list(folder.parents)[:3]:
        config = parent / "config.json"
        if not config.is_file():
            continue
        try:
            document = json.loads(config.read_text(encoding="utf-8"))
            manifest = Path(str(document["task"]["manifest"]))
        except (OSError, ValueError, KeyError, TypeError):
            continue
        for path in (manifest, parent / manifest):
            if path.is_file():
                return path
    return None


def _reference(item: Item) -> Reference:
    is_words = item.clip is None and item.load is None
    return Reference(
        id=item.id, path=item.clip, load=item.load, start=item.start, end=item.end, speaker=_speaker(item),
        words=item.transcript if is_words else None,
    )  # fmt: skip


def _speaker(item: Item) -> str | None:
    named = item.meta.get("speaker")
    return str(named) if named is not None else item.group


def _compare(
    items: Sequence[Item], fingers: _Fingers, references: Iterable[Reference], source: str, report: LeakReport
) -> None:
    references = list(references)
    report.checked.append(source)
    clips = fingers.shared_with(references)
    if clips:
        report.found.append(Leak(kind="clip", source=source, names=tuple(clips), num_items=len(clips)))
    speakers = {reference.speaker for reference in references} - {None}
    shared = dict.fromkeys(name for item in items if (name := _speaker(item)) is not None and name in speakers)
    if shared:
        count = sum(_speaker(item) in shared for item in items)
        report.found.append(Leak(kind="speaker", source=source, names=tuple(shared), num_items=count))
    words = {_plain(reference.words) for reference in references if reference.words}
    texts = [item for item in items if item.clip is None and item.load is None and item.transcript]
    repeated = sum(_plain(item.transcript or "") in words for item in texts)
    if repeated:
        report.notes.append(f"{repeated} of {len(texts)} texts stand word for word in the {source}")


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


class _Fingers:
    """Fingerprints of the evaluated clips. A file is only read when a file of the same size may be the same."""

    def __init__(self, items: Sequence[Item]) -> None:
        self._items = items
        self._hashes: dict[Path, str] = {}
        self._loaded: dict[str, str] | None = None
        self._by_size: dict[int, list[Item]] = {}
        for item in items:
            if item.clip is not None and item.clip.is_file():
                self._by_size.setdefault(item.clip.stat().st_size, []).append(item)

    def shared_with(self, references: Sequence[Reference]) -> list[str]:
        shared: dict[str, None] = {}
        for reference in references:
            if reference.path is None or not reference.path.is_file():
                continue
            for item in self._by_size.get(reference.path.stat().st_size, ()):
                assert item.clip is not None
                if _overlap(item, reference) and self._of_file(item.clip) == self._of_file(reference.path):
                    shared[item.id] = None
        loads = [reference.load for reference in references if reference.load is not None]
        if loads and any(item.load is not None for item in self._items):
            if self._loaded is None:
                self._loaded = {item.id: content_sha256(item.load()) for item in self._items if item.load is not None}
            known = {content_sha256(load()) for load in loads}
            shared |= dict.fromkeys(name for name, sha256 in self._loaded.items() if sha256 in known)
        return list(shared)

    def _of_file(self, path: Path) -> str:
        if path not in self._hashes:
            with path.open("rb") as file:
                self._hashes[path] = hashlib.file_digest(file, "sha256").hexdigest()
        return self._hashes[path]


def _overlap(item: Item, reference: Reference) -> bool:
    first, last = item.start or 0.0, math.inf if item.end is None else item.end
    return first < (math.inf if reference.end is None else reference.end) and (reference.start or 0.0) < last


def content_sha256(clip: Clip) -> str:
    """Return a hash of a decoded clip's pictures and sound, whatever file they came from."""
    digest = hashlib.sha256()
    if clip.frames is not None:
        digest.update(f"frames {clip.frames.images.shape}".encode())
        digest.update(clip.frames.images.tobytes())
    if clip.audio is not None:
        digest.update(f"audio {clip.audio.sample_rate} {len(clip.audio.samples)}".encode())
        digest.update(clip.audio.samples.tobytes())
    return digest.hexdigest()
