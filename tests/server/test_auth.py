"""API keys: who gets in, what each may, what belongs to whom, and that no key is ever written down."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from emollama.errors import InputError
from server.auth import _ROUTES, SCOPES, is_open, needed_scope, new_key
from server.keys_cli import app as command
from server.logs import JsonFormatter
from server.rates import Rates
from server.records import adapters, keys
from server.records.adapters import AdapterRecord
from server.records.jobs import JobRecord
from server.records.jobs import add as add_job

pytestmark = pytest.mark.anyio

ADMIN_KEY = "the operator's own key, thirty-two and more"
CLIP = {"file": ("clip.mp4", b"the clip", "video/mp4")}
DATA = {"file": ("train.jsonl", b'{"id": "a", "clip": null, "transcript": "yes", "label": "joy"}\n')}


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def give_key(s: Any, owner: str = "ann", scopes: str = "analyze,chat,files,jobs,models:read", **options: Any) -> str:
    text, record = new_key(owner=owner, scopes=scopes.split(","), **options)
    keys.add(s.app.state.store, record)
    return text


def code(response: Any) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


def walk(routes: Any) -> Iterator[Any]:
    """Every route that the application has, also those of the routers that it took up."""
    for route in routes:
        inner = getattr(route, "original_router", route)
        if hasattr(inner, "routes"):
            yield from walk(inner.routes)
        else:
            yield inner


async def test_every_route_but_health_and_the_page_wants_a_key(service: Any) -> None:
    """Walks the routes that there are, so that one that is added is closed, too."""
    async with service(auth="keys", admin_key=ADMIN_KEY) as s:
        routes = [route for route in walk(s.app.routes) if hasattr(route, "methods")]
        asked = [(route.path, method) for route in routes for method in sorted(route.methods)]
        assert {("/analyze", "POST"), ("/openapi.json", "GET"), ("/docs", "GET"), ("/v1/models/{model}", "DELETE")} <= {
            *asked
        }
        asked += [("/nothing/there", "GET"), ("/", "POST"), ("/health/", "GET"), ("/%2fhealth", "GET")]
        for path, method in asked:
            filled = path.replace("{", "").replace("}", "")
            for headers in ({}, bearer("emo_aaaaaaaaaaaa_" + "a" * 43), {"authorization": "Basic YTpi"}):
                response = await s.client.request(method, filled, headers=headers)
                if is_open(path):
                    assert response.status_code == {"/web/{name:path}": 404}.get(path, 405 if method == "POST" else 200)
                    continue
                assert response.status_code == 401, (method, path)
                assert response.headers["www-authenticate"] == "Bearer"
        assert s.analyzer.calls == []


async def test_every_route_has_a_scope_of_its_own(service: Any) -> None:
    async with service(auth="keys") as s:
        for route in walk(s.app.routes):
            if not is_open(route.path):
                assert any(route.path == prefix or route.path.startswith(prefix + "/") for _, prefix, _ in _ROUTES), (
                    f"{route.path} is the operator's alone until server/auth.py says whose it is"
                )
    assert needed_scope("GET", "/v1/filesystem") == "admin"


async def test_a_key_opens_what_its_scopes_name(service: Any) -> None:
    async with service(auth="keys") as s:
        key = bearer(give_key(s, scopes="analyze"))
        assert (await s.client.post("/analyze", files=CLIP, headers=key)).status_code == 200
        assert (await s.client.get("/ready", headers=key)).status_code == 200
        for method, path in (
            ("GET", "/v1/files"), ("GET", "/v1/models"), ("DELETE", "/v1/models/nano"), ("GET", "/metrics"),
            ("GET", "/v1/fine_tuning/jobs"), ("POST", "/v1/load_lora_adapter"), ("GET", "/nothing"),
        ):  # fmt: skip
            assert code(await s.client.request(method, path, headers=key)) == (403, "insufficient_scope"), path
        reader = bearer(give_key(s, scopes="models:read"))
        assert (await s.client.get("/v1/models", headers=reader)).status_code == 200
        assert code(await s.client.delete("/v1/models/nano", headers=reader)) == (403, "insufficient_scope")


async def test_the_operators_key_opens_everything(service: Any) -> None:
    async with service(auth="keys", admin_key=ADMIN_KEY) as s:
        for headers in (
            bearer(ADMIN_KEY),
            bearer(give_key(s, scopes="admin")),
            {"authorization": f"bearer {ADMIN_KEY}"},
        ):
            assert (await s.client.get("/v1/files", headers=headers)).status_code == 200
            assert code(await s.client.get("/nothing", headers=headers)) == (404, "not_found")
        assert code(await s.client.get("/v1/files", headers=bearer(ADMIN_KEY[:-1]))) == (401, "invalid_api_key")


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Basic abc", "emo_aaaaaaaaaaaa_" + "a" * 43, "Token abc"])
async def test_what_is_no_key_is_missing(service: Any, header: str) -> None:
    async with service(auth="keys") as s:
        assert code(await s.client.get("/v1/models", headers={"authorization": header})) == (401, "missing_api_key")


async def test_a_key_ends_when_it_is_revoked_or_expires(service: Any) -> None:
    async with service(auth="keys") as s:
        text = give_key(s)
        late = give_key(s, expires_at=time.time() - 1)
        assert (await s.client.get("/v1/models", headers=bearer(text))).status_code == 200
        assert code(await s.client.get("/v1/models", headers=bearer(late))) == (401, "invalid_api_key")
        wrong = text[:-1] + ("a" if text[-1] != "a" else "b")
        for bad in (wrong, text + "a", text.upper(), "é" * 60, "emo_" + "a" * 500):
            answer = await s.client.get("/v1/models", headers={"authorization": f"Bearer {bad}".encode()})
            assert code(answer) == (401, "invalid_api_key")
        assert keys.revoke(s.app.state.store, text.split("_")[1], now=time.time())
        assert code(await s.client.get("/v1/models", headers=bearer(text))) == (401, "invalid_api_key")


async def test_without_keys_everything_is_as_on_ones_own_machine(service: Any) -> None:
    async with service() as s:
        for headers in ({}, bearer("unused")):
            assert (await s.client.get("/v1/files", headers=headers)).status_code == 200


async def test_a_key_is_nowhere_but_with_its_holder(service: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with service(auth="keys", admin_key=ADMIN_KEY) as s:
        text = give_key(s)
        for key in (text, text[:-2] + "zz", ADMIN_KEY):
            await s.client.post("/analyze", files=CLIP, headers=bearer(key))
        answer = await s.client.get("/nothing", headers=bearer(text))
        assert text not in answer.text
        dump = b"".join(path.read_bytes() for path in s.app.state.data.root.glob("emollama.sqlite3*"))
    secret = text.split("_", 2)[2]
    assert secret.encode() not in dump
    written = "\n".join(JsonFormatter().format(record) for record in caplog.records)
    assert text.split("_")[1] in written, "the log says which key it was"
    assert secret not in written
    assert ADMIN_KEY not in written


# ---- rates ----------------------------------------------------------------------------------------------------------


def test_a_bucket_fills_evenly() -> None:
    now = [100.0]
    rates = Rates(clock=lambda: now[0])
    taken = [rates.take("a", per_minute=3) for _ in range(4)]
    assert [each.remaining for each in taken] == [2, 1, 0, 0]
    assert [each.wait_seconds for each in taken] == [0, 0, 0, pytest.approx(20)]
    assert rates.take("b", per_minute=3).wait_seconds == 0, "keys do not count together"
    now[0] += 20
    assert rates.take("a", per_minute=3).wait_seconds == 0
    assert rates.take("a", per_minute=3).wait_seconds == pytest.approx(20)
    now[0] += 3600
    assert rates.take("a", per_minute=3).headers() == {
        "x-ratelimit-limit-requests": "3",
        "x-ratelimit-remaining-requests": "2",
        "x-ratelimit-reset-requests": "20s",
    }


async def test_a_key_that_asks_too_often_is_told_when_to_come_back(service: Any) -> None:
    async with service(auth="keys", key_rate=2) as s:
        key, own = bearer(give_key(s)), bearer(give_key(s, per_minute=5))
        first = await s.client.get("/v1/models", headers=key)
        assert first.headers["x-ratelimit-remaining-requests"] == "1"
        await s.client.get("/v1/models", headers=key)
        refused = await s.client.get("/v1/models", headers=key)
        assert code(refused) == (429, "rate_limit_exceeded")
        assert 1 <= int(refused.headers["retry-after"]) <= 30
        assert refused.headers["x-ratelimit-remaining-requests"] == "0"
        assert (await s.client.get("/v1/models", headers=own)).headers["x-ratelimit-limit-requests"] == "5"


# ---- owners ---------------------------------------------------------------------------------------------------------


async def test_a_file_is_its_owners(service: Any) -> None:
    async with service(auth="keys", admin_key=ADMIN_KEY, jobs=False) as s:
        ann, bob, admin = bearer(give_key(s)), bearer(give_key(s, "bob")), bearer(ADMIN_KEY)
        second_of_ann = bearer(give_key(s))
        uploaded = await s.client.post("/v1/files", files=DATA, data={"purpose": "fine-tune"}, headers=ann)
        file = uploaded.json()["id"]
        for path in (f"/v1/files/{file}", f"/v1/files/{file}/content"):
            assert code(await s.client.get(path, headers=bob)) == (404, "file_not_found")
            for headers in (ann, second_of_ann, admin):
                assert (await s.client.get(path, headers=headers)).status_code == 200
        assert code(await s.client.delete(f"/v1/files/{file}", headers=bob)) == (404, "file_not_found")
        order = {"model": "nano", "training_file": file}
        assert code(await s.client.post("/v1/fine_tuning/jobs", json=order, headers=bob)) == (404, "file_not_found")
        assert (await s.client.get("/v1/files", headers=bob)).json()["data"] == []
        after = await s.client.get(f"/v1/files?after={file}", headers=bob)
        assert code(after) == (400, "invalid_value"), "also a cursor tells nothing of what others have"
        assert len((await s.client.get("/v1/files", headers=ann)).json()["data"]) == 1
        assert len((await s.client.get("/v1/files", headers=admin)).json()["data"]) == 1
        assert (await s.client.delete(f"/v1/files/{file}", headers=ann)).status_code == 200


async def test_a_job_is_its_owners(service: Any) -> None:
    async with service(auth="keys", jobs=False) as s:
        ann, bob = bearer(give_key(s)), bearer(give_key(s, "bob"))
        lines = b"".join(
            json.dumps({"id": f"r{n}", "clip": None, "transcript": f"w{n}", "label": ("joy", "anger")[n % 2]}).encode()
            + b"\n"
            for n in range(4)
        )
        sent = {"file": ("train.jsonl", lines)}
        uploaded = await s.client.post("/v1/files", files=sent, data={"purpose": "fine-tune"}, headers=ann)
        order = {"model": "nano", "training_file": uploaded.json()["id"]}
        made = await s.client.post("/v1/fine_tuning/jobs", json=order, headers=ann)
        assert made.status_code == 200, made.text
        job = f"/v1/fine_tuning/jobs/{made.json()['id']}"
        for method, path in (
            ("GET", job), ("GET", f"{job}/events"), ("GET", f"{job}/events?stream=true"), ("GET", f"{job}/checkpoints"),
            ("POST", f"{job}/cancel"), ("POST", f"{job}/pause"), ("POST", f"{job}/resume"),
        ):  # fmt: skip
            assert code(await s.client.request(method, path, headers=bob)) == (404, "job_not_found"), path
        assert (await s.client.get("/v1/fine_tuning/jobs", headers=bob)).json()["data"] == []
        assert len((await s.client.get("/v1/fine_tuning/jobs", headers=ann)).json()["data"]) == 1
        assert (await s.client.post(f"{job}/cancel", headers=ann)).json()["status"] == "cancelled"


async def test_an_adapter_is_its_owners(service: Any, analyzer_type: Any) -> None:
    async with service(load=lambda spec: analyzer_type(), auth="keys", jobs=False) as s:
        while (await s.client.get("/ready", headers=bearer(give_key(s)))).status_code != 200:
            pass
        ann, bob = bearer(give_key(s)), bearer(give_key(s, "bob"))
        store = s.app.state.store
        name = "ft:nano:emollama::1a2b3c4d"
        job = JobRecord(
            id="ftjob-1", status="succeeded", base="nano", model_name=name, training_file="f", seed=1, created_at=1.0,
            hyperparameters={}, owner="ann",
        )  # fmt: skip
        add_job(store, job, ())
        (s.app.state.data.job("ftjob-1") / "export").mkdir(parents=True)
        record = AdapterRecord(
            name=name, base="nano", folder="jobs/ftjob-1/export", job_id="ftjob-1", is_checkpoint=False,
            created_at=1.0, owner="ann",
        )  # fmt: skip
        with store.write() as connection:
            adapters.add_within(connection, record)
        asked = await s.client.post("/analyze", files=CLIP, data={"model": name}, headers=ann)
        assert asked.status_code == 200
        # Also now that it is in memory, it is nobody else's.
        asked = await s.client.post("/analyze", files=CLIP, data={"model": name}, headers=bob)
        assert code(asked) == (404, "model_not_found")
        assert code(await s.client.get(f"/v1/models/{name}", headers=bob)) == (404, "model_not_found")
        assert code(await s.client.delete(f"/v1/models/{name}", headers=bob)) == (404, "model_not_found")
        unknown = await s.client.post("/analyze", files=CLIP, data={"model": "mega"}, headers=bob)
        assert name not in unknown.text
        listed = [each["id"] for each in (await s.client.get("/v1/models", headers=bob)).json()["data"]]
        assert listed == ["nano"]
        assert (await s.client.delete(f"/v1/models/{name}", headers=ann)).status_code == 200


# ---- the command ----------------------------------------------------------------------------------------------------


def test_the_command_makes_lists_and_revokes_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMOLLAMA_DATA_DIR", str(tmp_path))
    run = CliRunner().invoke
    made = run(command, ["create", "ann", "--scopes", "analyze, chat", "--per-minute", "9", "--note", "the shop"])
    assert made.exit_code == 0, made.output
    text = made.output.strip()
    key_id = text.split("_")[1]
    rows = json.loads(run(command, ["list", "--json"]).output)
    assert [(row["id"], row["owner"], row["scopes"], row["per_minute"]) for row in rows] == [
        (key_id, "ann", ["analyze", "chat"], 9)
    ]
    assert "digest" not in rows[0]
    assert key_id in run(command, ["list"]).output
    assert run(command, ["revoke", key_id]).exit_code == 0
    assert run(command, ["revoke", key_id]).exit_code == 2
    assert "revoked" in run(command, ["list"]).output
    for wrong in (["a b"], ["ann", "--scopes", "everything"], ["ann", "--scopes", ","], ["ann", "--per-minute", "0"],
                  ["ann", "--expires-days", "0"]):  # fmt: skip
        refused = run(command, ["create", *wrong])
        assert refused.exit_code == 2
        assert "error:" in refused.output


def test_scopes_are_named_when_one_is_wrong() -> None:
    with pytest.raises(InputError, match="models:read"):
        new_key(owner="ann", scopes=["model"])
    assert {scope for _, _, scope in _ROUTES} - {""} <= set(SCOPES)
