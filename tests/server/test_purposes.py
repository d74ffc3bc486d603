"""What the service is used for: declared by service, key or request, and refused everywhere when it is prohibited."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from emollama.errors import InputError
from server.auth import new_key
from server.errors import ApiError
from server.keys_cli import app as command
from server.records import keys
from server.settings import Settings
from server.trust.declared import resolve
from server.trust.gate import has_no_purpose
from server.trust.purposes import ALLOWED, HEADER, PURPOSES

pytestmark = pytest.mark.anyio

CLIP = {"file": ("clip.wav", b"RIFF\x24\x00\x00\x00WAVEfmt " + b"sound" * 10, "audio/wav")}
PROHIBITED = sorted(set(PURPOSES) - set(ALLOWED))
SCOPES = ("analyze", "chat", "files", "jobs", "models:read", "metrics", "erase", "admin")


def walk(routes: Any) -> Iterator[Any]:
    for route in routes:
        inner = getattr(route, "original_router", route)
        if hasattr(inner, "routes"):
            yield from walk(inner.routes)
        else:
            yield inner


def give_key(s: Any, *, scopes: tuple[str, ...] = SCOPES, purpose: str | None = None) -> dict[str, str]:
    """A key of the database; one with a purpose that no key can be made with stands for those of an older policy."""
    text, record = new_key(owner="ann", scopes=scopes)
    keys.add(s.app.state.store, dataclasses.replace(record, purpose=purpose))
    return {"authorization": f"Bearer {text}"}


async def knock(app: Any, path: str, *, headers: dict[str, str], query: str = "", first: Any = None) -> dict[str, Any]:
    """Open a WebSocket, send one message if it is let in, and return what it ends with: a status, or a code."""
    told: dict[str, Any] = {}
    waiting = [{"type": "websocket.connect"}]
    if first is not None:
        waiting.append({"type": "websocket.receive", "text": json.dumps(first)})

    async def receive() -> Any:
        return waiting.pop(0) if waiting else {"type": "websocket.disconnect", "code": 1001}

    async def send(message: Any) -> None:
        if message["type"] == "websocket.http.response.start":
            told["status"] = message["status"]
        elif message["type"] == "websocket.http.response.body":
            told["code"] = json.loads(message["body"])["error"]["code"]
        elif message["type"] == "websocket.send":
            told.update(json.loads(message["text"]).get("error", {}))

    scope = {
        "type": "websocket", "path": path, "raw_path": path.encode(), "query_string": query.encode(), "root_path": "",
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()], "subprotocols": [],
        "scheme": "ws", "client": ("127.0.0.1", 1), "server": ("test", 80),
        "extensions": {"websocket.http.response": {}},
    }  # fmt: skip
    await app(scope, receive, send)
    return told


@pytest.mark.parametrize("by", ["request", "key"])
async def test_a_prohibited_purpose_is_refused_on_every_route(service: Any, by: str) -> None:
    """Walks the routes that there are, so that one that is added refuses it, too."""
    async with service(auth="keys") as s:
        headers = {**give_key(s), HEADER: "workplace"} if by == "request" else give_key(s, purpose="workplace")
        routes = list(walk(s.app.routes))
        asked = [(route.path, method) for route in routes for method in sorted(getattr(route, "methods", ()))]
        assert {("/analyze", "POST"), ("/v1/audit", "GET"), ("/metrics", "GET"), ("/ready", "GET")} <= {*asked}
        asked += [("/nothing/there", "GET"), ("/health/", "GET"), ("/docs2", "GET")]
        exempt = set()
        for path, method in asked:
            filled = path.replace("{", "").replace("}", "")
            response = await s.client.request(method, filled, headers=headers)
            if has_no_purpose(path):
                exempt.add(path)
                continue
            if path == "/v1/notice" and by == "key":  # it looks at no key
                continue
            assert response.status_code == 403, (method, path)
            if method != "HEAD":
                assert response.json()["error"]["code"] == "prohibited_purpose", (method, path)
        # Only what holds no data and reads nobody: health, the page's own files, the pages about the API.
        assert {path for path in exempt if not path.startswith("/web/")} == {
            "/health", "/", "/docs", "/docs/assets/{name}", "/openapi.json",
        }  # fmt: skip
        sockets = [route.path for route in routes if not hasattr(route, "methods")]
        assert "/v1/live" in sockets
        for path in sockets:
            assert await knock(s.app, path, headers=headers) == {"status": 403, "code": "prohibited_purpose"}
        assert s.analyzer.calls == []


async def test_a_websocket_says_it_in_its_address_and_may_bring_its_key_later(service: Any) -> None:
    async with service(auth="keys") as s:
        told = await knock(s.app, "/v1/live", headers=give_key(s), query="purpose=education")
        assert told == {"status": 403, "code": "prohibited_purpose"}
        key = give_key(s, purpose="recruitment")["authorization"].removeprefix("Bearer ")
        told = await knock(s.app, "/v1/live", headers={}, first={"type": "start", "key": key})
        assert told["code"] == "prohibited_purpose"


@pytest.mark.parametrize("purpose", PROHIBITED)
async def test_each_prohibited_purpose_is_refused_with_its_ground(service: Any, purpose: str) -> None:
    async with service() as s:
        for spelled in (purpose, purpose.upper(), purpose.replace("_", "-")):
            answer = await s.client.post("/analyze", files=CLIP, headers={HEADER: spelled})
            assert answer.status_code == 403
            error = answer.json()["error"]
            assert (error["code"], error["param"]) == ("prohibited_purpose", HEADER)
            assert str(PURPOSES[purpose].ground) in error["message"]
        assert s.analyzer.calls == []


async def test_a_word_that_is_no_purpose_is_told_what_is(service: Any) -> None:
    async with service() as s:
        answer = await s.client.get("/v1/models", headers={HEADER: "spying"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_value")
        assert "research" in answer.json()["error"]["message"]
        answer = await s.client.get("/v1/models", headers=[(HEADER, "research"), (HEADER, "workplace")])
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_value")


@pytest.mark.parametrize(
    ("server", "key", "asked", "expected"),
    [
        ((), None, None, None),
        ((), None, "media", "media"),
        (("research",), None, None, "research"),
        (("research", "media"), None, None, None),
        (("research", "media"), None, "media", "media"),
        (("research", "media"), "media", None, "media"),
        ((), "medical", " Medical ", "medical"),
        ((), "workplace_safety", None, "workplace_safety"),
        (("education_medical",), None, "education-medical", "education_medical"),
        (("research",), None, "media", "purpose_not_declared"),
        ((), "research", "media", "purpose_not_declared"),
        (("research",), "media", None, "purpose_not_declared"),
        (("research", "media"), "media", "research", "purpose_not_declared"),
        ((), None, "workplace_safety", "purpose_not_declared"),
        ((), "workplace", None, "prohibited_purpose"),
        (("research",), "workplace", "research", "prohibited_purpose"),
        ((), "of another version", None, "prohibited_purpose"),
    ],
)
def test_who_stands_below_may_only_choose(
    server: tuple[str, ...], key: str | None, asked: str | None, expected: str | None
) -> None:
    try:
        found = resolve(server=server, key=key, asked=asked)
    except ApiError as exc:
        found = exc.code
    assert found == expected


async def test_a_service_may_insist_on_a_purpose(service: Any) -> None:
    for settings in ({"require_purpose": True}, {"purpose": "research,media"}):
        async with service(**settings) as s:
            for method, path in (("POST", "/analyze"), ("GET", "/v1/models"), ("GET", "/v1/analyses")):
                answer = await s.client.request(method, path, files=CLIP if method == "POST" else None)
                assert (answer.status_code, answer.json()["error"]["code"]) == (400, "purpose_required")
            # What only looks after the service, or takes away, goes on.
            for path in ("/ready", "/metrics", "/v1/notice", "/v1/purposes", "/v1/audit", "/health", "/", "/docs"):
                assert (await s.client.get(path)).status_code == 200, path
            assert (await s.client.delete("/v1/analyses/none")).status_code == 404
            assert (await s.client.post("/analyze", files=CLIP, headers={HEADER: "research"})).status_code == 200
            assert (await s.client.get("/v1/purposes")).json()["purpose_required"] is True
            assert len(s.analyzer.calls) == 1


async def test_an_analysis_keeps_what_it_was_for(service: Any) -> None:
    async with service(auth="keys", purpose="research,media") as s:
        key = give_key(s, purpose="media")
        made = (await s.client.post("/v1/analyses", files=CLIP, headers=key)).json()
        assert made["purpose"] == "media"
        listed = (await s.client.get("/v1/analyses", headers=key)).json()["data"]
        assert [each["purpose"] for each in listed] == ["media"]
        told = (await s.client.get("/v1/purposes", headers=key)).json()
        assert (told["declared"], told["purpose_required"], told["header"]) == ("media", False, HEADER)
        assert [each["id"] for each in told["data"] if each["usable"]] == ["media"]
        grounds = {each["id"]: each["ground"] for each in told["data"] if not each["allowed"]}
        assert set(grounds) == set(PROHIBITED)
        assert "5(1)(f)" in grounds["workplace"]


def test_a_prohibited_purpose_starts_no_service() -> None:
    assert Settings(purpose="Research, workplace-safety", purpose_reason="drivers falling asleep").purpose == (
        "research", "workplace_safety",
    )  # fmt: skip
    for purpose in [*PROHIBITED, "spying"]:
        with pytest.raises(ValidationError, match=f"purpose is '{purpose}'.*allowed: personal"):
            Settings(purpose=purpose)
    with pytest.raises(ValidationError, match=r"purpose_reason is empty.*5\(1\)\(f\)"):
        Settings(purpose="workplace_medical")


def test_a_key_is_made_for_a_purpose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMOLLAMA_DATA_DIR", str(tmp_path))
    run = CliRunner().invoke
    assert run(command, ["create", "ann", "--purpose", "research"]).exit_code == 0
    made = run(command, ["create", "bob", "--purpose", "workplace-safety", "--note", "crane drivers' fatigue"])
    assert made.exit_code == 0
    assert [row["purpose"] for row in json.loads(run(command, ["list", "--json"]).stdout)] == [
        "research", "workplace_safety",
    ]  # fmt: skip
    assert "workplace_safety" in run(command, ["list"], env={"COLUMNS": "200"}).output
    for purpose, told in (
        ("education", "5(1)(f)"), ("spying", "allowed: personal"), ("workplace_safety", "note is empty"),
    ):  # fmt: skip
        refused = run(command, ["create", "ann", "--purpose", purpose])
        assert refused.exit_code == 2
        assert told in refused.stderr
    monkeypatch.setenv("EMOLLAMA_PURPOSE", "media")
    refused = run(command, ["create", "ann", "--purpose", "research"])
    assert (refused.exit_code, "EMOLLAMA_PURPOSE allows: media" in refused.stderr) == (2, True)
    with pytest.raises(InputError, match="prohibited"):
        new_key(owner="ann", scopes=["analyze"], purpose="workplace")
