"""Which modality carries the answer: the same items with each modality alone, and with each removed.

A modality is dropped before the model sees the clip, so that it is absent, not silent or black. Every variant is scored
over all items by the task's own rules and compared with the whole clips by a paired test. A variant that leaves an item
as it was repeats the whole clip's answer; one that leaves nothing of it is an item without an answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from emollama.types import MODALITIES
from eval.ask import Given, modalities_of
from eval.predictions import Record


@dataclass(frozen=True, kw_only=True)
class Variant:
    """``name`` as in the table ("audio alone", "without text"); ``kept`` is what the model still gets."""

    name: str
    kept: tuple[str, ...]

    @property
    def key(self) -> str:
        return "+".join(self.kept)


def variants(modalities: Sequence[str]) -> tuple[Variant, ...]:
    """Return each modality alone and each removed; of two modalities that is the same twice, and stands once."""
    present = tuple(name for name in MODALITIES if name in modalities)
    if len(present) < 2:
        return ()
    found = [Variant(name=f"{name} alone", kept=(name,)) for name in present]
    if len(present) > 2:
        found += [
            Variant(name=f"without {name}", kept=tuple(other for other in present if other != name)) for name in present
        ]
    return tuple(found)


def shortcut(given: Given, variant: Variant, whole: Record) -> Record | None:
    """Return the variant's answer where it needs no model: nothing was dropped, or nothing is left."""
    present = modalities_of(given.clip)
    kept = tuple(name for name in present if name in variant.kept)
    if kept == present:
        return replace(whole, given=variant.kept, seconds=0.0)
    if not kept:
        return Record(
            id=whole.id, gold=whole.gold, abstained=True, group=whole.group, given=variant.kept,
            notes={"nothing_left": 1},
        )  # fmt: skip
    return None
