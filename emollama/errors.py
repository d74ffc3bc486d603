"""Every error the library raises on purpose.

The classes know nothing of HTTP: ``server/errors.py`` holds the one table that maps them to status codes.
A message names the field, the value and what is allowed, so that a user can act on it.
"""

from __future__ import annotations

from collections.abc import Iterable


class EmoLlamaError(Exception):
    """Base of every deliberate error; ``field`` names the input at fault, when there is one."""

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class InputError(EmoLlamaError, ValueError):
    """A caller's argument is outside what is allowed."""


class UnknownNameError(InputError):
    """A name that is not in a registry; the message lists the names that are."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        self.known = tuple(sorted(known))
        super().__init__(f"unknown {kind} {name!r}; known: {', '.join(self.known) or '(none)'}", field=kind)


class MediaError(EmoLlamaError):
    """Base of everything that can be wrong with a clip's file."""


class UnsupportedMediaError(MediaError):
    """The bytes are not a container, audio file or image that this project reads."""


class UndecodableMediaError(MediaError):
    """The container was recognised but holds nothing that can be decoded."""


class MediaLimitError(MediaError):
    """A limit on bytes, seconds, pixels, frames or streams would be exceeded; ``limit`` is its name, if it has one."""

    def __init__(self, message: str, *, field: str | None = None, limit: str | None = None) -> None:
        super().__init__(message, field=field)
        self.limit = limit


class CheckpointError(EmoLlamaError):
    """A checkpoint, adapter or asset is missing, damaged, or does not fit the model."""


class TrainingError(EmoLlamaError):
    """Training cannot go on: the loss is not finite, or the memory is too small; the message says what to turn."""


class DependencyError(EmoLlamaError):
    """An optional package or file that the asked-for feature needs is not there; the message says how to get it."""


class DatasetError(EmoLlamaError):
    """A dataset file is missing or malformed; the message names the file, the row and the remedy."""


class BusyError(EmoLlamaError):
    """The engine's queue is full; ``retry_after_seconds`` says when to try again."""

    def __init__(self, message: str, *, retry_after_seconds: float) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class CancelledError(EmoLlamaError):
    """The caller's ``cancelled`` said that nobody waits for the answer any more."""


class DeadlineError(EmoLlamaError):
    """The work was not complete at the time that the caller had set."""
