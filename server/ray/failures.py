"""Errors across the cluster, as data: a pickled exception loses what its constructor wanted, or cannot be read.

A replica catches what the library and the service raise on purpose and sends a `Failure`; the door raises it again.
What nobody planned is sent as a `Fault`, without its message, which may quote the input; Ray would log that.
"""

from __future__ import annotations

from dataclasses import dataclass

from emollama import errors as library
from server.errors import ApiError, without_paths
from server.logs import frames_of

# What a replica tells as data. Of a file that is missing, loading tells as much as the message.
TOLD = (library.EmoLlamaError, ApiError, OSError)

_KINDS = {
    kind.__name__: kind
    for kind in vars(library).values()
    if isinstance(kind, type) and issubclass(kind, library.EmoLlamaError)
}


@dataclass(frozen=True, kw_only=True)
class Fault:
    """An error that nobody planned: the name of its class, and the places in the code that it passed."""

    kind: str
    trace: tuple[str, ...]

    @classmethod
    def of(cls, exc: Exception) -> Fault:
        return cls(kind=type(exc).__name__, trace=tuple(frames_of(exc)))

    def error(self) -> Exception:
        """Return an exception whose class has the same name; it is a fault of the service here, too."""
        return type(self.kind, (RemoteFaultError,), {})("an error that nobody planned, in a replica")


class RemoteFaultError(Exception):
    """A replica's fault; its class is named as the one that was raised there."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """``kind`` is a class of `emollama.errors`, ``OSError``, or ``ApiError`` with its ``code``."""

    kind: str
    message: str
    field: str | None = None
    code: str | None = None
    known: tuple[str, ...] = ()
    retry_after_seconds: float | None = None
    limit: str | None = None
    number: int | None = None

    @classmethod
    def of(cls, exc: Exception, *, root: str | None = None) -> Failure:
        """Describe an exception of `TOLD`; paths under ``root``, where uploads lie, are left out."""
        if isinstance(exc, ApiError):
            return cls(kind="ApiError", message=exc.message, field=exc.param, code=exc.code)
        if isinstance(exc, OSError):
            return cls(kind="OSError", message=exc.strerror or str(exc), number=exc.errno)
        # A class of another module (an engine's own) is told as the nearest one that every process knows.
        kind = next(each.__name__ for each in type(exc).__mro__ if each.__name__ in _KINDS)
        return cls(
            kind=kind,
            message=without_paths(str(exc), root),
            field=getattr(exc, "field", None),
            known=getattr(exc, "known", ()),
            retry_after_seconds=getattr(exc, "retry_after_seconds", None),
            limit=getattr(exc, "limit", None),
        )

    def error(self) -> Exception:
        """Return the exception that this describes."""
        if self.kind == "ApiError":
            assert self.code is not None
            return ApiError(self.code, self.message, param=self.field)
        if self.kind == "OSError":
            return OSError(self.number, self.message)
        kind = _KINDS[self.kind]
        # The constructors of some want what made the message; the message is there already.
        exc = kind.__new__(kind, self.message)
        Exception.__init__(exc, self.message)
        exc.field = self.field
        if isinstance(exc, library.UnknownNameError):
            exc.known = self.known
        if isinstance(exc, library.MediaLimitError):
            exc.limit = self.limit
        if isinstance(exc, library.BusyError):
            exc.retry_after_seconds = self.retry_after_seconds or 1.0
        return exc
