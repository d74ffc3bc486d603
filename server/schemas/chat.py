"""`/v1/chat/completions` in the dialect of OpenAI and vLLM: what may be asked for, and the shapes of the answers.

An option that this service does not have is refused by its name, unless its value asks for nothing (``null``, ``[]``,
a penalty of 0). ``user``, ``metadata``, ``safety_identifier`` and ``prompt_cache_key`` are labels that OpenAI documents
as having no influence on the answer; they are checked and otherwise have none here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from server.errors import ApiError, invalid_value

MAX_SEED = 2**53
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
MAX_STOPS = 4

# Options of OpenAI's and vLLM's that have no counterpart here -> the values that ask for nothing.
UNSUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "audio": (),
    "best_of": (1,),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "frequency_penalty": (0,),
    "function_call": ("none",),
    "functions": ([],),
    "guided_choice": (),
    "guided_grammar": (),
    "guided_json": (),
    "guided_regex": (),
    "ignore_eos": (False,),
    "logit_bias": ({},),
    "min_p": (0,),
    "min_tokens": (0,),
    "mm_processor_kwargs": ({},),
    "modalities": (["text"],),
    "moderation": (),
    "parallel_tool_calls": (),
    "prediction": (),
    "presence_penalty": (0,),
    "prompt_cache_options": (),
    "prompt_cache_retention": (),
    "reasoning_effort": ("none",),
    "repetition_penalty": (1,),
    "service_tier": ("auto", "default"),
    "stop_token_ids": ([],),
    "store": (False,),
    "structured_outputs": (),
    "tool_choice": ("none",),
    "tools": ([],),
    "top_k": (-1, 0),
    "use_beam_search": (False,),
    "verbosity": ("medium",),
    "web_search_options": (),
}


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StreamOptionsIn(_In):
    model_config = ConfigDict(title="ChatStreamOptions")

    include_usage: bool = False
    include_obfuscation: Literal[False] | None = None


class JsonSchemaIn(_In):
    model_config = ConfigDict(title="ChatJsonSchema", populate_by_name=True)

    name: str = Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_-]+$")
    description: str | None = Field(None, max_length=4096)
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class ResponseFormatIn(_In):
    model_config = ConfigDict(title="ChatResponseFormat")

    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: JsonSchemaIn | None = None


class ChatIn(_In):
    """A conversation about clips, and how it is to be answered."""

    model_config = ConfigDict(
        title="ChatCompletionRequest",
        json_schema_extra={
            "examples": [
                {
                    "model": "nano",
                    "messages": [
                        {
                            "role": "user",
                            "content": [
                                {
                                    "type": "video_url",
                                    "video_url": {"url": "data:video/mp4;base64,AAAA..."},
                                    "uuid": "a",
                                },
                                {"type": "text", "text": "What does the person appear to feel, and why?"},
                            ],
                        }
                    ],
                }
            ]
        },
    )

    model: str = Field(min_length=1, max_length=200, description="A name of `/v1/models`.")
    messages: list[dict[str, Any]] = Field(
        min_length=1, max_length=256,
        description="Roles system, developer, user, assistant. Parts: text, video_url, audio_url, image_url, "
        "input_audio, file.",
    )  # fmt: skip
    stream: bool | None = False
    stream_options: StreamOptionsIn | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = Field(None, description="0 if not given: the likeliest.")
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] | None = None
    stop: str | list[str] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=100_000)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=100_000)] | None = None
    n: Annotated[int, Field(ge=1, le=8)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: ResponseFormatIn | None = None
    user: Annotated[str, Field(max_length=512)] | None = None
    metadata: dict[str, str] | None = None
    safety_identifier: Annotated[str, Field(max_length=512)] | None = None
    prompt_cache_key: Annotated[str, Field(max_length=512)] | None = None

    @classmethod
    def from_json(cls, body: bytes) -> ChatIn:
        """Read a request's body; an error names the field."""
        try:
            document = json.loads(body)
            if _SURROGATE.search(body):
                json.dumps(document, ensure_ascii=False).encode()  # half a character is no text
        except (ValueError, RecursionError) as exc:
            raise ApiError("invalid_value", "the body is not JSON") from exc
        if not isinstance(document, dict):
            raise ApiError("invalid_value", "the body is not a JSON object")
        kept = {}
        for name, value in document.items():
            if name not in UNSUPPORTED:
                kept[name] = value
            elif value is not None and not any(_same(value, nothing) for nothing in UNSUPPORTED[name]):
                raise unsupported(name)
        try:
            given = cls.model_validate(kept)
        except ValidationError as exc:
            raise invalid_value(exc.errors()) from exc
        given._check()
        return given

    def _check(self) -> None:
        if self.stream_options is not None and not self.stream:
            raise ApiError("invalid_value", "stream_options is for stream=true", param="stream_options")
        if self.top_logprobs is not None and not self.logprobs:
            raise ApiError("invalid_value", "top_logprobs is for logprobs=true", param="top_logprobs")
        if not all(self.stops) or len(self.stops) > MAX_STOPS or any(len(stop) > 256 for stop in self.stops):
            message = f"stop holds {len(self.stops)} strings; allowed: up to {MAX_STOPS} of 1 to 256 characters"
            raise ApiError("invalid_value", message, param="stop")
        form = self.response_format
        if form is not None and (form.type == "json_schema") != (form.json_schema is not None):
            message = "response_format.json_schema goes with the type 'json_schema'"
            raise ApiError("invalid_value", message, param="response_format.json_schema")

    @property
    def stops(self) -> tuple[str, ...]:
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def most_tokens(self) -> int | None:
        given = [most for most in (self.max_completion_tokens, self.max_tokens) if most is not None]
        return min(given) if given else None


def _same(value: Any, other: Any) -> bool:
    """Whether two JSON values are equal; 0 is not false."""
    return bool(value == other) and isinstance(value, bool) == isinstance(other, bool)


def unsupported(name: str, *, param: str | None = None) -> ApiError:
    """Return the error for an option or a shape that this service does not have."""
    return ApiError("unsupported_parameter", f"{name[:60]!r} is not supported", param=param or name[:60])


class PromptDetailsOut(BaseModel):
    cached_tokens: int = Field(description="Tokens of a clip that had been read before.")


class UsageOut(BaseModel):
    model_config = ConfigDict(title="ChatUsage")

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetailsOut


class MessageOut(BaseModel):
    model_config = ConfigDict(title="ChatMessage")

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class TopLogprobOut(BaseModel):
    token: str
    logprob: float
    bytes: list[int]


class LogprobOut(TopLogprobOut):
    top_logprobs: list[TopLogprobOut]


class LogprobsOut(BaseModel):
    model_config = ConfigDict(title="ChatLogprobs")

    content: list[LogprobOut]
    refusal: None = None


class ChoiceOut(BaseModel):
    model_config = ConfigDict(title="ChatChoice")

    index: int
    message: MessageOut
    logprobs: LogprobsOut | None = None
    finish_reason: Literal["stop", "length"]


class MetricsOut(BaseModel):
    """Milliseconds; `encoder_ms` is 0 when the clip had been read before."""

    model_config = ConfigDict(title="ChatMetrics")

    queue_ms: float
    decode_ms: float = Field(description="Decoding the clip and finding faces.")
    encoder_ms: float = Field(description="The encoders and the first computation of the clip.")
    prompt_ms: float
    generation_ms: float


class ChatClipForgottenOut(BaseModel):
    """A clip that is not held for questions any more."""

    model_config = ConfigDict(title="ChatClipForgotten")

    id: str = Field(description="The uuid that the request named.")
    object: Literal["chat.clip"] = "chat.clip"
    deleted: bool = Field(description="False: it was not held, or not here.")


class ChatOut(BaseModel):
    model_config = ConfigDict(title="ChatCompletion")

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChoiceOut]
    usage: UsageOut
    system_fingerprint: None = None
    metrics: MetricsOut
    warnings: list[str] = Field(description="What the reader of the answer should know; usually empty.")


REQUEST_BODY: dict[str, Any] = {
    "required": True,
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ChatCompletionRequest"}}},
}


def chat_schemas() -> dict[str, Any]:
    """Return the schemas of a request's body for OpenAPI's components."""
    schema = ChatIn.model_json_schema(ref_template="#/components/schemas/{model}")
    return {**schema.pop("$defs", {}), schema["title"]: schema}
