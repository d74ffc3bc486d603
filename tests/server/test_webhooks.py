"""Webhooks as their receiver sees them; the official client's own verifier is the judge."""

from __future__ import annotations

import base64
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from server import webhooks
from server.records import deliveries, jobs
from server.records.jobs import JobRecord
from server.signing import Endpoint, sign
from server.store import Store
from server.webhooks import AddressError, Deliverer, delivery_of, resolve

openai = pytest.importorskip("openai")

SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()


class Receiver:
    """Takes webhooks at ``url``, and answers with the statuses in ``answers``, then with 200."""

    def __init__(self) -> None:
        self.received: list[tuple[dict[str, str], str]] = []
        self.paths: list[str] = []
        self.answers: list[int] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"])).decode()
                outer.paths.append(self.path)
                outer.received.append(({name.lower(): value for name, value in self.headers.items()}, body))
                self.send_response(outer.answers.pop(0) if outer.answers else 200)
                self.send_header("location", f"{outer.url}/elsewhere")
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self.url = f"http://localhost:{self.port}/hook"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def events(self) -> list[Any]:
        with openai.OpenAI(api_key="unused", webhook_secret=SECRET) as client:
            return [client.webhooks.unwrap(body, headers) for headers, body in self.received]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    opened = Receiver()
    yield opened
    opened.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(f"sqlite:///{tmp_path / 'emollama.sqlite3'}")
    job = JobRecord(
        id="ftjob-1", status="succeeded", base="nano", model_name="ft:1", training_file="file-1", seed=1,
        created_at=1.0, hyperparameters={},
    )  # fmt: skip
    jobs.add(opened, job, ())
    yield opened
    opened.close()


def queue_delivery(store: Store) -> str:
    delivery = delivery_of("fine_tuning.job.succeeded", "ftjob-1", owner="local", at=time.time())
    with store.write() as connection:
        deliveries.add_within(connection, delivery)
    return delivery.id


def test_the_end_of_a_job_is_told_and_the_official_client_believes_it(
    fine_tuning: Callable[..., Any], receiver: Receiver, wait_until: Callable[..., None]
) -> None:
    t = fine_tuning(webhook_url=receiver.url, webhook_secret=SECRET, webhook_allow_private=True)
    ended = {t.create(suffix=suffix).id: kind for suffix, kind in ((None, "succeeded"), ("diverge", "failed"))}
    for job_id in ended:
        t.wait(job_id)
    paused = t.create(steps=500, pause=0.05)
    ended[t.client.fine_tuning.jobs.cancel(paused.id).id] = "cancelled"
    wait_until(lambda: len(receiver.received) == 3)
    events = receiver.events()
    assert {event.data.id: event.type for event in events} == {
        job_id: f"fine_tuning.job.{kind}" for job_id, kind in ended.items()
    }
    headers, body = receiver.received[0]
    assert headers["webhook-id"] == events[0].id
    assert headers["host"] == f"localhost:{receiver.port}"
    with openai.OpenAI(api_key="unused", webhook_secret=SECRET) as client:
        with pytest.raises(openai.InvalidWebhookSignatureError):
            client.webhooks.unwrap(body.replace("ftjob", "ftjob-x"), headers)


def test_the_end_of_an_analysis_is_told_to_the_address_that_came_with_it(
    module_live: Callable[..., Any], receiver: Receiver, wait_until: Callable[..., None], analyzer_type: Any
) -> None:
    mine = "whsec_" + base64.b64encode(b"m" * 32).decode()
    operators = {"webhook_url": f"{receiver.url}/operator", "webhook_secret": SECRET, "webhook_allow_private": True}
    s = module_live(analyzer_type(), analysis_webhooks="any", **operators)
    wav = {"file": ("a.wav", b"RIFF\x24\x00\x00\x00WAVEfmt " + b"\0" * 32)}
    fields = {"webhook_url": receiver.url, "webhook_secret": mine}
    answer = httpx.post(f"{s.url}/v1/analyses", files=wav, data=fields, timeout=30)
    assert answer.json()["webhook_url"] == receiver.url
    assert mine not in answer.text
    wait_until(lambda: len(receiver.received) == 1)
    s.analyzer.error = ValueError("no")
    plain = httpx.post(f"{s.url}/v1/analyses", files=wav, timeout=30).json()["id"]
    wait_until(lambda: len(receiver.received) == 2)
    # One to the client's address under the client's key, the other to the operator's under the operator's.
    told = []
    for secret, (headers, body) in zip((mine, SECRET), receiver.received, strict=True):
        with openai.OpenAI(api_key="unused", webhook_secret=secret) as client:
            client.webhooks.verify_signature(body, headers)
        told.append((json.loads(body)["type"], json.loads(body)["data"]["id"]))
    assert told == [("analysis.succeeded", answer.json()["id"]), ("analysis.failed", plain)]
    assert receiver.paths == ["/hook", "/hook/operator"]
    # The client's key is forgotten with the last attempt.
    store = s.app.state.store
    wait_until(lambda: deliveries.about(store, answer.json()["id"])[0].delivered_at is not None)
    assert deliveries.about(store, answer.json()["id"])[0].secret is None


@pytest.mark.parametrize(
    ("allowed", "url"),
    [
        ("off", "https://hooks.example/a"), ("public", "http://hooks.example/a"), ("public", "https://localhost/a"),
        ("public", "https://10.0.0.1/a"), ("public", "https://user@hooks.example/a"), ("any", "ftp://hooks.example/a"),
        ("public", "https://hooks.example/a b"), ("any", "https://user:word@hooks.example/a"), ("any", "x"),
    ],
)  # fmt: skip
def test_an_address_of_a_request_may_be_refused(service: Any, anyio_backend: str, allowed: str, url: str) -> None:
    import asyncio

    async def ask() -> None:
        async with service(analysis_webhooks=allowed) as s:
            wav = {"file": ("a.wav", b"RIFF\x24\x00\x00\x00WAVEfmt " + b"\0" * 32)}
            answer = await s.client.post("/v1/analyses", files=wav, data={"webhook_url": url, "webhook_secret": SECRET})
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "webhook_not_allowed")

    asyncio.run(ask())


def test_a_public_name_that_leads_into_a_private_network_is_not_called(
    store: Store, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", receiver.port))]
    monkeypatch.setattr(webhooks.socket, "getaddrinfo", lambda *_, **__: entry)
    url = f"http://hooks.example:{receiver.port}/hook"
    delivery = delivery_of("analysis.failed", "analysis-1", owner="ann", at=time.time(), url=url, secret=SECRET)
    with store.write() as connection:
        deliveries.add_within(connection, delivery)
    # The operator may have a private address; that opens nothing for addresses of requests.
    operators = Endpoint(url=receiver.url, secret=SECRET, allow_private=True)
    assert Deliverer(store, operators, poll_seconds=1).deliver_next()
    assert receiver.received == []
    assert "private network" in str(deliveries.about(store, "analysis-1")[0].last_error)


def test_without_the_operators_address_its_webhooks_wait(store: Store) -> None:
    queue_delivery(store)
    assert not Deliverer(store, None, poll_seconds=1).deliver_next()
    assert deliveries.about(store, "ftjob-1")[0].next_at is not None


def test_a_receiver_that_does_not_answer_keeps_no_other_waiting(
    store: Store, receiver: Receiver, wait_until: Callable[..., None]
) -> None:
    hanging = socket.create_server(("127.0.0.1", 0))  # takes connections and says nothing
    slow = Endpoint(url=f"http://localhost:{hanging.getsockname()[1]}/", secret=SECRET, allow_private=True)
    with store.write() as connection:
        for number, url in enumerate((slow.url, slow.url, receiver.url)):
            delivery = delivery_of("analysis.failed", f"a{number}", owner="ann", at=1.0, url=url, secret=SECRET)
            deliveries.add_within(connection, delivery)
    deliverer = Deliverer(store, None, poll_seconds=0.02, clients_private=True)
    deliverer.start()
    try:
        wait_until(lambda: len(receiver.received) == 1)
        assert deliveries.about(store, "a0")[0].last_status is None
    finally:
        hanging.close()
        deliverer.stop()


def test_another_implementation_of_the_standard_agrees() -> None:
    standard = pytest.importorskip("standardwebhooks")
    body = '{"id": "evt_1"}'
    headers = sign(SECRET, delivery_id="evt_1", timestamp=int(time.time()), body=body)
    assert standard.Webhook(SECRET).verify(body, headers) == {"id": "evt_1"}


def test_a_webhook_that_is_not_taken_is_sent_again_later(
    store: Store, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    delivery_id = queue_delivery(store)
    deliverer = Deliverer(store, Endpoint(url=receiver.url, secret=SECRET, allow_private=True), poll_seconds=1)
    receiver.answers = [500]
    assert deliverer.deliver_next()
    (waiting,) = deliveries.about(store, "ftjob-1")
    assert (waiting.last_status, waiting.num_attempts, waiting.delivered_at) == (500, 1, None)
    assert waiting.next_at is not None
    assert 5 <= waiting.next_at - time.time() + 0.5 <= 7
    assert not deliverer.deliver_next()
    monkeypatch.setattr(webhooks.time, "time", lambda real=time.time: real() + 10)
    assert deliverer.deliver_next()
    (done,) = deliveries.about(store, "ftjob-1")
    assert (done.last_status, done.num_attempts, done.next_at) == (200, 2, None)
    assert done.delivered_at is not None
    ids = {headers["webhook-id"] for headers, _ in receiver.received}
    assert ids == {delivery_id}


@pytest.mark.parametrize(("answers", "attempts"), [([410], 1), ([500] * 20, len(webhooks.BACKOFF_SECONDS) + 1)])
def test_a_receiver_that_never_takes_it_is_given_up(
    store: Store, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, answers: list[int], attempts: int
) -> None:
    queue_delivery(store)
    monkeypatch.setattr(webhooks, "BACKOFF_SECONDS", (0,) * len(webhooks.BACKOFF_SECONDS))
    receiver.answers = answers
    deliverer = Deliverer(store, Endpoint(url=receiver.url, secret=SECRET, allow_private=True), poll_seconds=1)
    while deliverer.deliver_next():
        pass
    (delivery,) = deliveries.about(store, "ftjob-1")
    assert (delivery.num_attempts, delivery.next_at, delivery.delivered_at) == (attempts, None, None)
    assert len(receiver.received) == attempts


def test_redirects_are_not_followed(store: Store, receiver: Receiver) -> None:
    queue_delivery(store)
    receiver.answers = [307]
    Deliverer(store, Endpoint(url=receiver.url, secret=SECRET, allow_private=True), poll_seconds=1).deliver_next()
    assert len(receiver.received) == 1
    assert deliveries.about(store, "ftjob-1")[0].last_status == 307


def test_private_networks_are_not_called_unless_allowed(store: Store, receiver: Receiver) -> None:
    queue_delivery(store)
    Deliverer(store, Endpoint(url=receiver.url, secret=SECRET), poll_seconds=1).deliver_next()
    assert receiver.received == []
    assert "private network" in str(deliveries.about(store, "ftjob-1")[0].last_error)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "10.1.2.3", "192.168.0.1", "169.254.169.254", "::1", "fe80::1", "0.0.0.0"]
)
def test_what_is_private_is_known(host: str) -> None:
    with pytest.raises(AddressError, match="private network"):
        resolve(host, 80, allow_private=False)
    assert resolve(host, 80, allow_private=True).partition("%")[0] == host


def test_a_public_address_is_called() -> None:
    assert resolve("1.1.1.1", 443, allow_private=False) == "1.1.1.1"
