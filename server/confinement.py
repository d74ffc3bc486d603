"""What a process that reads strangers' files may not do: the kernel's limits, set by the process on itself."""

from __future__ import annotations

import os
from typing import IO

_OPEN_FILES = 64  # the interpreter's own, shared libraries while they are loaded, and one clip


def take_pipes() -> tuple[IO[bytes], IO[bytes]]:
    """Return where requests come from and where answers go; nothing else goes in or out any more.

    What a library writes, to wherever, must not get into an answer, nor into a log: it may quote the clip.
    """
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nowhere, number)
    return requests, answers


def restrict(address_bytes: int) -> None:
    """Write to no file, leave no core, open few files, reserve at most so many bytes more of addresses."""
    import resource

    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_FSIZE, 0)
    _lower(resource.RLIMIT_NOFILE, _OPEN_FILES)
    _lower(resource.RLIMIT_AS, _address_space() + address_bytes)


def allow_processor_time(seconds: int) -> None:
    """Let the next clip use so much; what the earlier ones used does not count against it."""
    import resource

    usage = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    soft = int(usage.ru_utime + usage.ru_stime) + 1 + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def _lower(which: int, value: int) -> None:
    import resource

    _, hard = resource.getrlimit(which)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (value, value))


def _address_space() -> int:
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # another system than Linux
        return 2 * 2**30
