"""Identifiers of what is stored: a prefix that says what it is, and 24 random letters and digits."""

from __future__ import annotations

import secrets
import string

_ALPHABET = string.ascii_lowercase + string.digits


def new_id(prefix: str, *, length: int = 24) -> str:
    """Return for instance ``ftjob-4k1x...``."""
    return prefix + random_text(length)


def random_text(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))
