"""A model that is asked over HTTP: an OpenAI-compatible endpoint, a cache of its answers, and how fast it may be asked.

Used to write instruction data and to judge answers; the product itself needs no endpoint and never asks one.
"""

from __future__ import annotations

from emollama.endpoint.cache import AnswerCache
from emollama.endpoint.chat import (
    BASE_URL_VARIABLE,
    CHARACTERS_PER_TOKEN,
    KEY_VARIABLE,
    ChatEndpoint,
    Completion,
    EndpointError,
    EndpointOptions,
    EndpointUnusableError,
    Prompt,
    Usage,
)
from emollama.endpoint.limits import RateLimit, Stop, StoppedError

__all__ = [
    "BASE_URL_VARIABLE", "CHARACTERS_PER_TOKEN", "KEY_VARIABLE", "AnswerCache", "ChatEndpoint", "Completion",
    "EndpointError", "EndpointOptions", "EndpointUnusableError", "Prompt", "RateLimit", "Stop", "StoppedError", "Usage",
]  # fmt: skip
