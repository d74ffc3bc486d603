"""Webhooks: a signed POST to the operator's address when a job has ended, tried again until it is taken.

The signature is that of Standard Webhooks (https://www.standardwebhooks.com), as OpenAI's are: an HMAC-SHA256 over
``id.timestamp.body`` in the header ``webhook-signature``, so that `openai.OpenAI().webhooks.unwrap` reads them. The
address is looked up once for each attempt and the connection goes to the address that was checked; redirects are not
followed.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import json
import logging
import random
import socket
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from emollama.errors import EmoLlamaError
from server.records import deliveries
from server.records.deliveries import DeliveryRecord
from server.records.ids import new_id
from server.store import Store

if TYPE_CHECKING:
    import httpx

logger = logging.getLogger("server.jobs.webhooks")

# Seconds before the second attempt, the third, and so on; after the last one a delivery is given up.
BACKOFF_SECONDS = (5, 30, 120, 600, 3600, 3 * 3600, 8 * 3600)
TIMEOUT_SECONDS = 15.0
_GONE = 410


class AddressError(EmoLlamaError):
    """The webhook's address leads nowhere, or into a private network."""


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Where webhooks go, and the key that signs them (``whsec_`` and base64)."""

    url: str
    secret: str
    allow_private: bool = False


def delivery_of(job_id: str, status: str, *, at: float) -> DeliveryRecord:
    """Return the webhook that tells how a job ended; it is due at once."""
    event_id, kind = new_id("evt_"), f"fine_tuning.job.{status}"
    body = {"id": event_id, "object": "event", "created_at": int(at), "type": kind, "data": {"id": job_id}}
    return DeliveryRecord(id=event_id, job_id=job_id, type=kind, body=json.dumps(body), created_at=at, next_at=at)


def sign(secret: str, *, delivery_id: str, timestamp: int, body: str) -> dict[str, str]:
    """Return the three headers of Standard Webhooks."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = hmac.new(key, f"{delivery_id}.{timestamp}.{body}".encode(), hashlib.sha256).digest()
    return {
        "webhook-id": delivery_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }


def resolve(host: str, port: int, *, allow_private: bool) -> str:
    """Return the address of a host that may be called, or raise `AddressError`."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as exc:
        raise AddressError(f"the webhook's host {host!r} has no address") from exc
    addresses = [str(entry[4][0]) for entry in found]
    for address in addresses:
        if allow_private or ipaddress.ip_address(address.partition("%")[0]).is_global:
            return address
    raise AddressError(f"the webhook's host {host!r} is in a private network; set webhook_allow_private to allow it")


class Deliverer:
    """Sends what is due in a thread of its own."""

    def __init__(self, store: Store, endpoint: Endpoint, *, poll_seconds: float) -> None:
        self._store, self._endpoint, self._poll_seconds = store, endpoint, poll_seconds
        self._stop, self._wake = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="webhooks", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Return when an attempt that is on its way has ended, or has had the time for it."""
        self._stop.set()
        self._wake.set()
        self._thread.join(TIMEOUT_SECONDS)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                while not self._stop.is_set() and self.deliver_next():
                    pass
            except Exception as exc:  # the thread's edge: the database may be away for a while
                logger.error("webhooks could not be looked at", exc_info=exc)
            self._wake.wait(self._poll_seconds)

    def deliver_next(self) -> bool:
        """Try one delivery that is due; return whether there was one."""
        import httpx

        delivery = deliveries.claim_due(self._store, now=time.time(), hold_seconds=4 * TIMEOUT_SECONDS)
        if delivery is None:
            return False
        status: int | None = None
        error: str | None = None
        try:
            status = self._send(delivery).status_code
        except (httpx.HTTPError, AddressError) as exc:
            error = str(exc) if isinstance(exc, AddressError) else type(exc).__name__
        is_delivered = status is not None and 200 <= status < 300
        retry = None
        if not is_delivered and status != _GONE and delivery.num_attempts <= len(BACKOFF_SECONDS):
            retry = time.time() + BACKOFF_SECONDS[delivery.num_attempts - 1] * random.uniform(1.0, 1.2)
        deliveries.settle(
            self._store,
            delivery.id,
            next_at=retry,
            delivered_at=time.time() if is_delivered else None,
            status=status,
            error=error,
        )
        fields = {"webhook": delivery.id, "type": delivery.type, "status": status, "attempt": delivery.num_attempts}
        if is_delivered:
            logger.info("webhook delivered", extra={"fields": fields})
        else:
            given_up = {"given_up": retry is None, "reason": error}
            logger.warning("webhook was not taken", extra={"fields": fields | given_up})
        return True

    def _send(self, delivery: DeliveryRecord) -> httpx.Response:
        import httpx

        parts = urlsplit(self._endpoint.url)
        assert parts.hostname is not None
        port = parts.port or (443 if parts.scheme == "https" else 80)
        address = resolve(parts.hostname, port, allow_private=self._endpoint.allow_private)
        # The request goes to the address that was checked; name and certificate stay those of the host.
        url = httpx.URL(self._endpoint.url).copy_with(host=address)
        headers = sign(self._endpoint.secret, delivery_id=delivery.id, timestamp=int(time.time()), body=delivery.body)
        headers |= {"host": parts.netloc, "content-type": "application/json", "user-agent": "emollama-webhooks"}
        client = httpx.Client(timeout=TIMEOUT_SECONDS, follow_redirects=False, trust_env=False)
        extensions = {"sni_hostname": parts.hostname}
        with (
            client,
            client.stream("POST", url, content=delivery.body, headers=headers, extensions=extensions) as response,
        ):
            return response  # its status is all that is wanted; the body is not read
