"""`POST /v1/load_lora_adapter` and `/v1/unload_lora_adapter`: adapters of the operator's, while the service runs."""

from __future__ import annotations

import asyncio
import time

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse

from emollama.errors import EmoLlamaError, UnknownNameError
from server.adapter_folder import find_adapter
from server.body import read_json_body
from server.deps import ModelsDep, SettingsDep
from server.errors import ApiError, responses, without_paths
from server.models import LOAD_ERRORS, ModelSpec
from server.schemas.adapters import LoadAdapterIn, UnloadAdapterIn, read, request_body

router = APIRouter(tags=["models"], default_response_class=PlainTextResponse)


@router.post(
    "/v1/load_lora_adapter",
    summary="Let an adapter answer",
    responses=responses(
        "invalid_value", "unknown_field", "adapter_not_allowed", "invalid_adapter", "adapter_exists",
        "model_not_found", "body_too_large", "unsupported_content_type",
    ),
    openapi_extra={
        "requestBody": request_body(LoadAdapterIn, {"lora_name": "call-centre", "lora_path": "call-centre/v3"})
    },
)  # fmt: skip
async def load_adapter(request: Request, models: ModelsDep, settings: SettingsDep) -> PlainTextResponse:
    """It is loaded strictly before the answer: a tensor that is missing, left over or does not fit is an error."""
    wanted = read(LoadAdapterIn, await read_json_body(request))
    folder = await asyncio.to_thread(find_adapter, settings.adapter_root, wanted.lora_path)
    base = models.base_of(wanted.base_model_name)
    spec = ModelSpec(name=wanted.lora_name, base=base, adapter=folder, created=int(time.time()))
    try:
        await asyncio.to_thread(models.install, spec)
    except UnknownNameError:
        raise
    except LOAD_ERRORS as exc:
        # What a library of weights says may hold anything; ours names the file and what is wrong with it.
        reason = without_paths(str(exc), str(folder)) if isinstance(exc, EmoLlamaError) else "its weights do not fit"
        raise ApiError("invalid_adapter", f"the adapter cannot be loaded: {reason}", param="lora_path") from exc
    return PlainTextResponse(f"Success: LoRA adapter '{wanted.lora_name}' added successfully.")


@router.post(
    "/v1/unload_lora_adapter",
    summary="Drop an adapter that was loaded",
    responses=responses(
        "invalid_value", "unknown_field", "model_not_found", "body_too_large", "unsupported_content_type"
    ),
    openapi_extra={"requestBody": request_body(UnloadAdapterIn, {"lora_name": "call-centre"})},
)
async def unload_adapter(request: Request, models: ModelsDep) -> PlainTextResponse:
    """Requests that are being answered with it end as they began; its files stay."""
    wanted = read(UnloadAdapterIn, await read_json_body(request))
    await asyncio.to_thread(models.uninstall, wanted.lora_name)
    return PlainTextResponse(f"Success: LoRA adapter '{wanted.lora_name}' removed successfully.")
