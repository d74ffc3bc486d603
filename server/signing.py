"""The signature of webhooks, and where they go.

It is that of Standard Webhooks (https://www.standardwebhooks.com), as OpenAI's are: an HMAC-SHA256 over
``id.timestamp.body`` in the header ``webhook-signature``, so that `openai.OpenAI().webhooks.unwrap` reads them.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Where webhooks go, and the key that signs them (``whsec_`` and base64)."""

    url: str
    secret: str
    allow_private: bool = False


def is_secret(text: str) -> bool:
    """Whether a text can sign webhooks: ``whsec_`` and 24 to 64 bytes in base64."""
    prefix, _, encoded = text.partition("_")
    try:
        key = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return False
    return prefix == "whsec" and 24 <= len(key) <= 64


def sign(secret: str, *, delivery_id: str, timestamp: int, body: str) -> dict[str, str]:
    """Return the three headers of Standard Webhooks."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = hmac.new(key, f"{delivery_id}.{timestamp}.{body}".encode(), hashlib.sha256).digest()
    return {
        "webhook-id": delivery_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }
