"""Webhooks: a signed POST when a job or an analysis has ended, tried again until it is taken.

They go to the operator's address, or to one that came with a request. The address is looked up once for each attempt
and the connection goes to the address that was checked; redirects are not followed. `server.signing` signs them.
"""

from __future__ import annotations

import json
import logging
import random
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from emollama.errors import EmoLlamaError
from server.addresses import is_public
from server.records import deliveries
from server.records.deliveries import DeliveryRecord
from server.records.ids import new_id
from server.signing import Endpoint, sign
from server.store import Store

if TYPE_CHECKING:
    import httpx

logger = logging.getLogger("server.webhooks")

# Seconds before the second attempt, the third, and so on; after the last one a delivery is given up.
BACKOFF_SECONDS = (5, 30, 120, 600, 3600, 3 * 3600, 8 * 3600)
TIMEOUT_SECONDS = 15.0
_GONE = 410
_NUM_SENDERS = 4  # a receiver that keeps one waiting keeps the others from nothing


class AddressError(EmoLlamaError):
    """The webhook's address leads nowhere, or into a private network."""


def delivery_of(
    kind: str, subject_id: str, *, owner: str, at: float, url: str | None = None, secret: str | None = None
) -> DeliveryRecord:
    """Return the webhook that tells of an event, due at once; without a ``url`` it goes to the operator's address."""
    event_id = new_id("evt_")
    body = {"id": event_id, "object": "event", "created_at": int(at), "type": kind, "data": {"id": subject_id}}
    return DeliveryRecord(
        id=event_id, subject_id=subject_id, owner=owner, type=kind, body=json.dumps(body), created_at=at, next_at=at,
        url=url, secret=secret,
    )  # fmt: skip


def resolve(host: str, port: int, *, allow_private: bool) -> str:
    """Return the address of a host that may be called, or raise `AddressError`."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as exc:
        raise AddressError(f"the webhook's host {host!r} has no address") from exc
    addresses = [str(entry[4][0]) for entry in found]
    for address in addresses:
        if allow_private or is_public(address):
            return address
    raise AddressError(f"the webhook's host {host!r} is in a private network; set webhook_allow_private to allow it")


class Deliverer:
    """Sends what is due, a few at a time in threads of its own.

    ``endpoint`` is the operator's, None when there is none; ``clients_private`` lets addresses that came with requests
    lie in private networks.
    """

    def __init__(
        self, store: Store, endpoint: Endpoint | None, *, poll_seconds: float, clients_private: bool = False
    ) -> None:
        self._store, self._endpoint, self._poll_seconds = store, endpoint, poll_seconds
        self._clients_private = clients_private
        self._stop = threading.Event()
        self._places = threading.Semaphore(_NUM_SENDERS)
        self._senders = ThreadPoolExecutor(_NUM_SENDERS, thread_name_prefix="webhook")
        self._thread = threading.Thread(target=self._run, name="webhooks", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Return when the attempts that are on their way have ended, or have had the time for it."""
        self._stop.set()
        self._thread.join()
        self._senders.shutdown(wait=True)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                while self._places.acquire(timeout=self._poll_seconds) and self._send_one():
                    pass
            except Exception as exc:  # the thread's edge: the database may be away for a while
                logger.error("webhooks could not be looked at", exc_info=exc)
            self._stop.wait(self._poll_seconds)

    def _send_one(self) -> bool:
        """Hand one delivery that is due to a sender, who frees the place; without one it is free at once."""
        delivery = None
        try:
            delivery = None if self._stop.is_set() else self._claim()
        finally:
            if delivery is None:
                self._places.release()
        if delivery is None:
            return False
        self._senders.submit(self._deliver_in_thread, delivery)
        return True

    def _deliver_in_thread(self, delivery: DeliveryRecord) -> None:
        try:
            self._deliver(delivery)
        except Exception as exc:  # the thread's edge: it is tried again when its hold has run out
            logger.error("a webhook could not be sent", extra={"fields": {"webhook": delivery.id}}, exc_info=exc)
        finally:
            self._places.release()

    def _claim(self) -> DeliveryRecord | None:
        hold = 4 * TIMEOUT_SECONDS
        has_endpoint = self._endpoint is not None
        return deliveries.claim_due(self._store, now=time.time(), hold_seconds=hold, operators=has_endpoint)

    def deliver_next(self) -> bool:
        """Try one delivery that is due; return whether there was one."""
        delivery = self._claim()
        if delivery is None:
            return False
        self._deliver(delivery)
        return True

    def _deliver(self, delivery: DeliveryRecord) -> None:
        import httpx

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

    def _endpoint_of(self, delivery: DeliveryRecord) -> Endpoint:
        if delivery.url is not None:
            return Endpoint(url=delivery.url, secret=delivery.secret or "", allow_private=self._clients_private)
        assert self._endpoint is not None
        return self._endpoint

    def _send(self, delivery: DeliveryRecord) -> httpx.Response:
        import httpx

        endpoint = self._endpoint_of(delivery)
        parts = urlsplit(endpoint.url)
        assert parts.hostname is not None
        port = parts.port or (443 if parts.scheme == "https" else 80)
        address = resolve(parts.hostname, port, allow_private=endpoint.allow_private)
        # The request goes to the address that was checked; name and certificate stay those of the host.
        url = httpx.URL(endpoint.url).copy_with(host=address)
        headers = sign(endpoint.secret, delivery_id=delivery.id, timestamp=int(time.time()), body=delivery.body)
        headers |= {"host": parts.netloc, "content-type": "application/json", "user-agent": "emollama-webhooks"}
        client = httpx.Client(timeout=TIMEOUT_SECONDS, follow_redirects=False, trust_env=False)
        extensions = {"sni_hostname": parts.hostname}
        with (
            client,
            client.stream("POST", url, content=delivery.body, headers=headers, extensions=extensions) as response,
        ):
            return response  # its status is all that is wanted; the body is not read
