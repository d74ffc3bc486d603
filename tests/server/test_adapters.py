"""Adapters that the operator loads and unloads while the service answers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from emollama.errors import CheckpointError

pytestmark = pytest.mark.anyio

CLIP = {"file": ("clip.mp4", b"the clip", "video/mp4")}
LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    """An adapter root with an adapter ``good``, beside a folder ``outside`` that looks like one."""
    for folder in (tmp_path / "root" / "good", tmp_path / "outside", tmp_path / "root" / "shop" / "v2"):
        folder.mkdir(parents=True)
        (folder / "adapter_config.json").write_text("{}")
        (folder / "adapter_model.safetensors").write_bytes(b"weights")
    return tmp_path / "root"


def strict(analyzer_type: Any) -> Any:
    def load(spec: Any) -> Any:
        if spec.adapter is not None and (spec.adapter / "adapter_model.safetensors").read_bytes() != b"weights":
            raise CheckpointError(f"{spec.adapter}/adapter_model.safetensors has a left-over key 'vision.q_proj'")
        return analyzer_type()

    return load


@pytest.fixture
def ready(service: Any, analyzer_type: Any, shelf: Path, eventually: Any) -> Any:
    """``async with ready() as s``: a service with that root whose model answers."""
    import contextlib

    @contextlib.asynccontextmanager
    async def start(**settings: Any) -> Any:
        given = {"adapter_root": shelf, "load": strict(analyzer_type), **settings}
        async with service(**given) as s:
            await eventually(lambda: "nano" in s.app.state.models.names)
            yield s

    return start


def code(response: Any) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


async def test_an_adapter_answers_from_load_to_unload(ready: Any, shelf: Path) -> None:
    async with ready() as s:
        for name, path in (("good", "good"), ("shop", str(shelf / "shop" / "v2"))):
            loaded = await s.client.post(LOAD, json={"lora_name": name, "lora_path": path})
            assert (loaded.status_code, loaded.text) == (200, f"Success: LoRA adapter '{name}' added successfully.")
            assert loaded.headers["content-type"].startswith("text/plain")
        listed = {each["id"]: each for each in (await s.client.get("/v1/models")).json()["data"]}
        assert set(listed) == {"nano", "good", "shop"}
        assert listed["good"]["parent"] == "nano"
        assert str(shelf) not in str(listed)
        assert (await s.client.post("/analyze", files=CLIP, data={"model": "good"})).status_code == 200
        assert code(await s.client.delete("/v1/models/good")) == (400, "model_not_deletable")
        gone = await s.client.post(UNLOAD, json={"lora_name": "good"})
        assert (gone.status_code, gone.text) == (200, "Success: LoRA adapter 'good' removed successfully.")
        assert code(await s.client.post("/analyze", files=CLIP, data={"model": "good"})) == (404, "model_not_found")
        assert code(await s.client.post(UNLOAD, json={"lora_name": "good"})) == (404, "model_not_found")
        assert (shelf / "good" / "adapter_model.safetensors").is_file()
        again = await s.client.post(LOAD, json={"lora_name": "good", "lora_path": "good"})
        assert again.status_code == 200


async def test_an_adapter_that_had_to_make_room_is_loaded_again(ready: Any) -> None:
    async with ready(adapters_in_memory=1) as s:
        for name in ("good", "shop/v2"):
            await s.client.post(LOAD, json={"lora_name": name.partition("/")[0], "lora_path": name})
        assert "good" not in s.app.state.models.names
        assert (await s.client.post("/analyze", files=CLIP, data={"model": "good"})).status_code == 200


async def test_a_name_in_use_is_refused(ready: Any) -> None:
    async with ready() as s:
        await s.client.post(LOAD, json={"lora_name": "good", "lora_path": "good"})
        for name in ("good", "nano"):
            answer = await s.client.post(LOAD, json={"lora_name": name, "lora_path": "shop/v2"})
            assert code(answer) == (400, "adapter_exists")


@pytest.mark.parametrize(
    "path",
    ["../outside", "good/../../outside", ".", "", "/etc", "/", "nothing", "good/adapter_config.json", "a\x00b", "link",
     "linked-file", "~", "x" * 999, "good/" * 190],
)  # fmt: skip
async def test_nothing_outside_of_the_root_is_loaded(ready: Any, shelf: Path, path: str) -> None:
    os.symlink(shelf.parent / "outside", shelf / "link")
    (shelf / "linked-file").mkdir()
    (shelf / "linked-file" / "adapter_config.json").write_text("{}")
    os.symlink(shelf.parent / "outside" / "adapter_model.safetensors", shelf / "linked-file/adapter_model.safetensors")
    async with ready() as s:
        answer = await s.client.post(LOAD, json={"lora_name": "new", "lora_path": path})
        assert code(answer) in ((403, "adapter_not_allowed"), (400, "invalid_value"))
        assert str(shelf.parent) not in answer.text
        assert (await s.client.get("/v1/models/new")).status_code == 404


async def test_an_absolute_path_outside_is_no_better(ready: Any, shelf: Path) -> None:
    async with ready() as s:
        answer = await s.client.post(LOAD, json={"lora_name": "new", "lora_path": str(shelf.parent / "outside")})
        assert code(answer) == (403, "adapter_not_allowed")


@pytest.mark.parametrize("name", ["adapter_model.bin", "weights.pt", "sub/training_args.pkl", "run.py"])
async def test_a_folder_with_files_that_could_run_is_refused(ready: Any, shelf: Path, name: str) -> None:
    (shelf / "good" / name).parent.mkdir(exist_ok=True)
    (shelf / "good" / name).write_bytes(b"\x80\x04")
    async with ready() as s:
        answer = await s.client.post(LOAD, json={"lora_name": "new", "lora_path": "good"})
        assert code(answer) == (400, "invalid_adapter")
        assert name in answer.json()["error"]["message"]


async def test_an_adapter_without_weights_or_with_others_is_refused(ready: Any, shelf: Path) -> None:
    async with ready() as s:
        (shelf / "good" / "adapter_model.safetensors").write_bytes(b"others")
        answer = await s.client.post(LOAD, json={"lora_name": "new", "lora_path": "good"})
        assert code(answer) == (400, "invalid_adapter")
        assert "left-over key 'vision.q_proj'" in answer.json()["error"]["message"]
        assert str(shelf) not in answer.text
        (shelf / "good" / "adapter_model.safetensors").unlink()
        answer = await s.client.post(LOAD, json={"lora_name": "new", "lora_path": "good"})
        assert code(answer) == (400, "invalid_adapter")
        assert code(await s.client.get("/v1/models/new")) == (404, "model_not_found")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"lora_name": "a b", "lora_path": "good"}, (400, "invalid_value")),
        ({"lora_name": "new"}, (400, "invalid_value")),
        ({"lora_name": "new", "lora_path": "good", "load_inplace": True}, (400, "unknown_field")),
        ({"lora_name": "new", "lora_path": "good", "base_model_name": "mega"}, (404, "model_not_found")),
        ([], (400, "invalid_value")),
    ],
)
async def test_a_request_that_is_not_understood(ready: Any, body: Any, expected: tuple[int, str]) -> None:
    async with ready() as s:
        assert code(await s.client.post(LOAD, json=body)) == expected


async def test_without_a_root_nothing_is_loaded(ready: Any) -> None:
    async with ready(adapter_root=None) as s:
        answer = await s.client.post(LOAD, json={"lora_name": "new", "lora_path": "good"})
        assert code(answer) == (403, "adapter_not_allowed")
        assert "EMOLLAMA_ADAPTER_ROOT" in answer.text


async def test_what_was_loaded_answers_after_a_restart_until_it_is_unloaded(ready: Any, tmp_path: Path) -> None:
    async with ready(data_dir=tmp_path / "data") as s:
        for name, path in (("good", "good"), ("shop", "shop/v2")):
            assert (await s.client.post(LOAD, json={"lora_name": name, "lora_path": path})).status_code == 200
    async with ready(data_dir=tmp_path / "data") as s:
        listed = {each["id"]: each for each in (await s.client.get("/v1/models")).json()["data"]}
        assert set(listed) == {"nano", "good", "shop"}
        assert "good" not in s.app.state.models.names  # it is loaded when it is asked for
        assert (await s.client.post("/analyze", files=CLIP, data={"model": "good"})).status_code == 200
        answer = await s.client.post(LOAD, json={"lora_name": "good", "lora_path": "shop/v2"})
        assert code(answer) == (400, "adapter_exists")
        assert (await s.client.post(UNLOAD, json={"lora_name": "shop"})).status_code == 200
    async with ready(data_dir=tmp_path / "data") as s:
        assert {each["id"] for each in (await s.client.get("/v1/models")).json()["data"]} == {"nano", "good"}
        assert code(await s.client.post("/analyze", files=CLIP, data={"model": "shop"})) == (404, "model_not_found")


async def test_after_a_restart_an_adapter_is_held_to_the_rules_again(ready: Any, shelf: Path, tmp_path: Path) -> None:
    async with ready(data_dir=tmp_path / "data") as s:
        assert (await s.client.post(LOAD, json={"lora_name": "good", "lora_path": "good"})).status_code == 200
    (shelf / "good" / "run.py").write_bytes(b"import os")
    async with ready(data_dir=tmp_path / "data") as s:
        assert code(await s.client.post("/analyze", files=CLIP, data={"model": "good"})) == (404, "model_not_found")
    (shelf / "good" / "run.py").unlink()
    async with ready(data_dir=tmp_path / "data", adapter_root=None) as s:
        assert (await s.client.get("/v1/models/good")).status_code == 404
    async with ready(data_dir=tmp_path / "data", model=str(tmp_path / "another" / "nano")) as s:
        assert (await s.client.get("/v1/models/good")).status_code == 404
    async with ready(data_dir=tmp_path / "data") as s:
        assert (await s.client.get("/v1/models/good")).status_code == 200
