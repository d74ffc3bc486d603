"""The text of a reply while it grows: what is certain already, and what may still change.

The last token may be half a character, or be followed by one that takes the space before it away; the end of the text
may be the beginning of a string at which the reply is to stop. So the end is held back until more is known. Slots
stand in the text with the values that were measured, from the first on.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from emollama.prompt import Cues, Renderer, Slots


class ReplyText:
    """Takes tokens and gives text. ``stop`` strings end it and are not part of it; in JSON, values are escaped."""

    def __init__(
        self, renderer: Renderer, cues: Cues | None, *, stop: Sequence[str] = (), is_json: bool = False
    ) -> None:
        self._renderer, self._cues = renderer, cues
        self._is_json = is_json
        self._stop = tuple(stop)
        self._slots = Slots({}) if cues is None else Slots.of(cues)
        if is_json:
            inside = {slot: json.dumps(value, ensure_ascii=False)[1:-1] for slot, value in self._slots.values.items()}
            self._slots = Slots(inside)
        self._ids: list[int] = []
        self._sent = 0
        self._held = ""
        self.is_stopped = False

    def of(self, token: int) -> str:
        """The text of one token by itself."""
        return self._slots.fill(self._renderer.tokenizer.decode([token], skip_special_tokens=False))

    def take(self, token: int) -> None:
        """Take a token; its text is held back until it is asked for."""
        self._ids.append(token)

    def add(self, token: int) -> str:
        """Take a token and return what is `certain` now."""
        self.take(token)
        return self.certain()

    def certain(self) -> str:
        """Return the text that will not change any more and was not returned before."""
        self._held = self.whole()
        found = [at for at in (self._held.find(stop) for stop in self._stop) if at >= 0]
        if found:
            self.is_stopped = True
            self._held = self._held[: min(found)]
            return self.rest()
        certain = self._held.rstrip("�").rstrip()
        if self._stop:
            certain = certain[: len(certain) - max(_overlap(certain, stop) for stop in self._stop)].rstrip()
        new = certain[self._sent :]
        self._sent = max(self._sent, len(certain))
        return new

    def rest(self) -> str:
        """Return what was held back; nothing more comes."""
        if not self.is_stopped:
            self._held = self.whole()
        new = self._held[self._sent :]
        self._sent = len(self._held)
        return new

    def whole(self) -> str:
        """Return the text of all tokens so far."""
        if self._is_json or self._cues is None:
            return self._slots.fill(self._renderer.tokenizer.decode(self._ids, skip_special_tokens=False))
        return self._renderer.decode(self._ids, self._cues)


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of a text may be the beginning of a stop string."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
