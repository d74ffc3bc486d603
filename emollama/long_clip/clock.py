"""Times as people write them: nobody reads 760.2 s as something after twelve minutes."""

from __future__ import annotations

import re

_QUOTED_OR_TIME = re.compile(r"“[^”]*”|(?<![\w.])(\d+(?:\.\d+)?) s\b")


def clock(seconds: float) -> str:
    """Return a time as people write it: ``12:40``, ``1:02:03``."""
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


def in_clock_times(text: str) -> str:
    """Write the seconds of a rationale that are a minute or more as a clock does; quoted words stay as they are."""

    def told(match: re.Match[str]) -> str:
        seconds = match.group(1)
        return match.group() if seconds is None or float(seconds) < 60 else clock(float(seconds))

    return _QUOTED_OR_TIME.sub(told, text)
