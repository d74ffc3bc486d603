"""Names of fine-tuned models: ``ft:BASE:ORG:SUFFIX:HASH``, and ``...:ckpt-step-N`` for a checkpoint of one.

The shape is OpenAI's. The hash is random, so that two jobs with the same suffix have two names.
"""

from __future__ import annotations

import re

from emollama.errors import InputError
from server.records.ids import random_text

_SUFFIX = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HASH_LENGTH = 8


def model_name(base: str, *, org: str, suffix: str | None) -> str:
    """Return a new name, such as ``ft:nano:acme:bored:1a2b3c4d``."""
    return f"ft:{base}:{org}:{suffix or ''}:{random_text(_HASH_LENGTH)}"


def checkpoint_name(model: str, step: int) -> str:
    return f"{model}:ckpt-step-{step}"


def check_suffix(suffix: str) -> str:
    """Return a suffix that may stand in a model's name, or raise `InputError`."""
    if not _SUFFIX.fullmatch(suffix):
        raise InputError(
            f"suffix is {suffix[:80]!r}; allowed: 1 to 64 letters, digits and . _ -, the first a letter or digit",
            field="suffix",
        )
    return suffix
