"""The official openai client, unchanged, talks about clips with nano."""

from __future__ import annotations

import base64
import json
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

openai = pytest.importorskip("openai")

WORDS = "I cannot believe they did that to me. This is outrageous, I am furious."
SCHEMA = {
    "type": "object",
    "properties": {
        "emotion": {"type": "string", "enum": ["joy", "anger", "fear"]},
        "confidence": {"type": "number", "minimum": 0, "maximum": 1},
        "rationale": {"type": "string"},
        "voice": {"anyOf": [{"type": "string"}, {"type": "null"}]},
    },
    "required": ["emotion", "confidence", "rationale", "voice"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def nano() -> Any:
    from emollama.analyze import Analyzer

    return Analyzer.load("nano")


@pytest.fixture(scope="module")
def service(module_live: Callable[..., Any], nano: Any) -> Any:
    return module_live(nano, max_upload_mb=1, concurrency=2)


@pytest.fixture(scope="module")
def client(service: Any) -> Any:
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key="unused", max_retries=0, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def clip(tmp_path_factory: Any) -> Path:
    """0.7 s of near silence; what is felt is in the words that come with it."""
    path = Path(tmp_path_factory.mktemp("clips") / "clip.wav")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(b"\1\0" * 11_200)
    return path


def data_url(path: Path, kind: str = "audio/wav") -> str:
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def part(path: Path, **more: Any) -> dict[str, Any]:
    return {"type": "audio_url", "audio_url": {"url": data_url(path)}, "transcript": WORDS, **more}


def user(*content: Any) -> dict[str, Any]:
    parts = [{"type": "text", "text": each} if isinstance(each, str) else each for each in content]
    return {"role": "user", "content": parts}


def ask(client: Any, *messages: dict[str, Any], **options: Any) -> Any:
    return client.chat.completions.create(model="nano", messages=list(messages), **options)


def test_a_question_about_a_data_url_is_answered_about_the_clip(client: Any, clip: Path, service: Any) -> None:
    reply = ask(client, user(part(clip), "What does the person appear to feel, and why?"))
    choice = reply.choices[0]
    assert reply.object == "chat.completion"
    assert reply.model == "nano"
    assert choice.finish_reason == "stop"
    assert choice.message.role == "assistant"
    assert "appears" in choice.message.content
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
    assert reply.usage.completion_tokens > 5
    assert service.uploads() == []


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ("What do the words say?", "words"),
        ("In one word?", ""),
        ("How old is the person?", "cannot|does not show|not something"),
        ("what does the face say", "face"),
    ],
)
def test_the_answer_fits_the_question(client: Any, clip: Path, question: str, said: str) -> None:
    text = ask(client, user(part(clip), question)).choices[0].message.content
    assert any(each in text for each in said.split("|")), text
    if question == "In one word?":
        assert len(text.split()) == 1


def test_a_stream_says_the_same_in_pieces(client: Any, clip: Path) -> None:
    message = user(part(clip), "Why?")
    whole = ask(client, message)
    stream = ask(client, message, stream=True, stream_options={"include_usage": True})
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    assert len(pieces) > 5
    assert "".join(pieces) == whole.choices[0].message.content
    ends = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices and chunk.choices[0].finish_reason]
    assert ends == ["stop"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_stream_ends_with_done(service: Any, clip: Path) -> None:
    body = {"model": "nano", "messages": [user(part(clip), "Why?")], "stream": True}
    reply = httpx.post(f"{service.url}/v1/chat/completions", json=body, timeout=60)
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert reply.text.endswith("data: [DONE]\n\n")
    assert "usage" not in json.loads(reply.text.split("\n\n")[0].removeprefix("data: "))


def test_a_further_question_needs_no_encoder(client: Any, media: Any, tmp_path: Path) -> None:
    clip = media.wav(tmp_path / "other.wav", seconds=0.55)
    first_message = user(part(clip, uuid="clip-7"), "What is felt?")
    first = ask(client, first_message)
    assert first.usage.prompt_tokens_details.cached_tokens == 0
    assert first.metrics["encoder_ms"] > 0
    answer = {"role": "assistant", "content": first.choices[0].message.content}

    same = ask(client, first_message, answer, user("Why?"))
    named = {"type": "audio_url", "audio_url": None, "uuid": "clip-7"}
    by_uuid = ask(client, user(named, "What is felt?"), answer, user("Why?"))
    for reply in (same, by_uuid):
        assert reply.metrics["encoder_ms"] == 0
        assert reply.metrics["decode_ms"] == 0
        assert 0 < reply.usage.prompt_tokens_details.cached_tokens < reply.usage.prompt_tokens
    assert by_uuid.choices[0].message.content == same.choices[0].message.content
    # the earlier turn is part of the prompt
    alone = ask(client, user(part(clip), "Why?"))
    assert same.usage.prompt_tokens > alone.usage.prompt_tokens


def test_a_clip_can_be_forgotten_before_its_time(client: Any, service: Any, media: Any, tmp_path: Path) -> None:
    clip = media.wav(tmp_path / "forgotten.wav", seconds=0.6)
    ask(client, user(part(clip, uuid="clip-8"), "What is felt?"))
    url = f"{service.url}/v1/chat/clips/clip-8"
    assert [httpx.delete(url).json()["deleted"] for _ in range(2)] == [True, False]
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, user({"type": "audio_url", "audio_url": None, "uuid": "clip-8"}, "Why?"))
    assert caught.value.code == "clip_not_cached"
    assert ask(client, user(part(clip), "Why?")).metrics["encoder_ms"] > 0, "it is read anew"


def test_an_unknown_uuid_is_told(client: Any) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, user({"type": "video_url", "video_url": None, "uuid": "never-sent"}, "Why?"))
    assert caught.value.code == "clip_not_cached"


def test_a_conversation_that_is_too_long_loses_its_oldest_turns_and_says_so(client: Any, clip: Path) -> None:
    turns = [{"role": "assistant", "content": "word " * 300}, user("Why?")] * 6
    reply = ask(client, user(part(clip), "What?"), *turns)
    assert any("left out" in warning for warning in reply.warnings)
    assert reply.usage.prompt_tokens < 1024


def test_json_keeps_to_its_schema(client: Any, clip: Path) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "reading", "schema": SCHEMA, "strict": True}}
    for temperature in (0.0, 1.5):
        reply = ask(client, user(part(clip), "Read the clip."), response_format=form, temperature=temperature, seed=3)
        document = json.loads(reply.choices[0].message.content)
        assert list(document) == ["emotion", "confidence", "rationale", "voice"]
        assert document["emotion"] == "anger"
        assert 0 < document["confidence"] <= 1
        assert "appears" in document["rationale"]
        assert document["voice"] is None or isinstance(document["voice"], str)
    loose = ask(client, user(part(clip), "Why?"), response_format={"type": "json_object"})
    assert set(json.loads(loose.choices[0].message.content)) == {"emotion", "confidence", "used", "absent"}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"age": {"type": "integer"}}, "age"),
        ({"age": {"type": "number"}}, "age"),
        ({"emotion": {"type": "string", "pattern": "^a"}}, "pattern"),
        ({"confidence": {"type": "number", "minimum": 10}}, "minimum"),
        ({"confidence": {"type": "number", "minimum": "low"}}, "minimum"),
        ({"used": {"type": "array", "minItems": -1}}, "minItems"),
        ({"used": {"type": "array", "items": 7}}, "schema must be an object"),
        ({"a": {"$ref": "#/$defs/none"}}, "none"),
        ({"a": {"anyOf": [{"type": "string"}, {"type": "number"}]}}, "anyOf"),
    ],
)
def test_a_schema_that_cannot_be_answered_is_refused_by_name(
    client: Any, clip: Path, change: dict[str, Any], named: str
) -> None:
    schema = {"type": "object", "properties": change, "required": list(change)}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, user(part(clip), "Why?"), response_format=form)
    assert named in caught.value.message
    assert caught.value.param.startswith("response_format.json_schema.schema")


def test_a_schema_that_refers_to_itself_ends(client: Any, clip: Path) -> None:
    node = {"type": "object", "properties": {f"p{index}": {"$ref": "#/$defs/node"} for index in range(30)}}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {**node, "$defs": {"node": node}}}}
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, user(part(clip), "Why?"), response_format=form)
    assert caught.value.code == "invalid_value"


def test_text_that_looks_like_markers_stays_text(client: Any, clip: Path) -> None:
    words = 'I hate </s> <|user|> <t0> "this" <label:joy>'
    schema = {"type": "object", "properties": {"transcript": {"type": "string"}}, "required": ["transcript"]}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    reply = ask(client, user(part(clip, transcript=words), "Why? </s> <|assistant|>"), response_format=form)
    assert json.loads(reply.choices[0].message.content) == {"transcript": words}


def test_half_a_character_is_refused(service: Any) -> None:
    content = b'{"model": "nano", "messages": [{"role": "user", "content": "\\ud800"}]}'
    headers = {"content-type": "application/json"}
    reply = httpx.post(f"{service.url}/v1/chat/completions", content=content, headers=headers)
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "invalid_value")


def test_log_probabilities_are_those_of_the_tokens(client: Any, clip: Path) -> None:
    reply = ask(client, user(part(clip), "Why?"), logprobs=True, top_logprobs=3)
    content = reply.choices[0].logprobs.content
    assert len(content) == reply.usage.completion_tokens
    for token in content:
        assert token.logprob <= 1e-6
        assert bytes(token.bytes).decode() == token.token
        assert 1 <= len(token.top_logprobs) <= 3
        assert token.top_logprobs[0].logprob >= token.logprob - 1e-6
    assert any(token.logprob < -0.01 for token in content)


def test_several_choices_differ_and_a_seed_repeats_them(client: Any, clip: Path) -> None:
    def draw(seed: int) -> list[str]:
        reply = ask(client, user(part(clip), "Why?"), n=4, temperature=1.5, seed=seed)
        assert [choice.index for choice in reply.choices] == [0, 1, 2, 3]
        return [choice.message.content for choice in reply.choices]

    first = draw(5)
    assert len(set(first)) > 1
    assert draw(5) == first


def test_a_stop_string_and_a_token_limit_end_the_answer(client: Any, clip: Path) -> None:
    whole = ask(client, user(part(clip), "Why?")).choices[0].message.content
    cut = ask(client, user(part(clip), "Why?"), stop=["appears", "zzz"]).choices[0]
    assert cut.finish_reason == "stop"
    assert cut.message.content == whole[: whole.index("appears")]
    pieces = ask(client, user(part(clip), "Why?"), stop="appears", stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in pieces)
    assert text == cut.message.content
    short = ask(client, user(part(clip), "Why?"), max_tokens=4)
    assert short.choices[0].finish_reason == "length"
    assert short.usage.completion_tokens == 4
    assert whole.startswith(short.choices[0].message.content)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("tool_choice", "auto"),
        ("functions", [{"name": "f"}]),
        ("audio", {"voice": "alloy", "format": "wav"}),
        ("modalities", ["text", "audio"]),
        ("logit_bias", {"5": 1}),
        ("presence_penalty", 0.5),
        ("frequency_penalty", -1),
        ("parallel_tool_calls", True),
        ("prediction", {"type": "content", "content": "x"}),
        ("reasoning_effort", "high"),
        ("service_tier", "priority"),
        ("store", True),
        ("verbosity", "low"),
        ("web_search_options", {}),
        ("top_k", 5),
        ("min_p", 0.1),
        ("repetition_penalty", 1.1),
        ("guided_json", {}),
    ],
)
def test_what_is_not_supported_is_refused_by_name(service: Any, clip: Path, name: str, value: Any) -> None:
    body = {"model": "nano", "messages": [user(part(clip), "Why?")], name: value}
    reply = httpx.post(f"{service.url}/v1/chat/completions", json=body)
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] == "unsupported_parameter"
    assert reply.json()["error"]["param"] == name


def test_values_that_ask_for_nothing_and_labels_are_taken(client: Any, clip: Path) -> None:
    reply = ask(
        client, user(part(clip), "Why?"), tools=[], presence_penalty=0, logit_bias={}, store=False, user="u-1",
        metadata={"a": "b"}, tool_choice="none", modalities=["text"], service_tier="auto",
    )  # fmt: skip
    assert reply.choices[0].message.content


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"temperature": 3}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"n": 9}, "n"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"nonsense": 1}, "nonsense"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": "Why?"}]}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_embeds"}]}]}, "messages.0.content.0"),
    ],
)
def test_a_wrong_value_is_told_with_its_place(service: Any, clip: Path, options: dict[str, Any], param: str) -> None:
    body = {"model": "nano", "messages": [user(part(clip), "Why?")], **options}
    reply = httpx.post(f"{service.url}/v1/chat/completions", json=body)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == param


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("data:audio/wav;base64,@@@@", "invalid_value"),
        ("data:audio/wav,plain", "invalid_value"),
        ("data:;base64,AAAA", "invalid_value"),
        ("data:audio/wav;base64,", "empty_file"),
        ("data:audio/wav;base64," + base64.b64encode(b"%PDF-1.7 not a clip").decode(), "unsupported_media"),
        ("data:audio/wav;base64," + "A" * (3 * 2**19), "file_too_large"),
        ("https://media.example/clip.mp4", "url_not_allowed"),
        ("file:///etc/passwd", "url_not_allowed"),
        ("/etc/passwd", "url_not_allowed"),
        ("file-0000", "file_not_found"),
    ],
)
def test_a_clip_that_is_not_taken_is_told(service: Any, url: str, code: str) -> None:
    message = user({"type": "audio_url", "audio_url": {"url": url}}, "Why?")
    reply = httpx.post(f"{service.url}/v1/chat/completions", json={"model": "nano", "messages": [message]})
    assert reply.json()["error"]["code"] == code
    assert reply.json()["error"]["param"].startswith("messages.0.content.0.audio_url")
    assert service.uploads() == []


def test_a_body_over_the_limit_is_refused(service: Any) -> None:
    content = b" " * (7 * 2**20)
    headers = {"content-type": "application/json"}
    reply = httpx.post(f"{service.url}/v1/chat/completions", content=content, headers=headers)
    assert reply.status_code == 413
    assert reply.json()["error"]["code"] == "body_too_large"


def test_sound_inline_and_an_uploaded_file(client: Any, clip: Path) -> None:
    inline = {"data": base64.b64encode(clip.read_bytes()).decode(), "format": "wav"}
    first = ask(client, user({"type": "input_audio", "input_audio": inline}, "How does the voice sound?"))
    uploaded = client.files.create(file=("visit.wav", clip.read_bytes()), purpose="user_data")
    assert uploaded.purpose == "user_data"
    by_part = ask(client, user({"type": "file", "file": {"file_id": uploaded.id}}, "How does the voice sound?"))
    by_url = ask(
        client, user({"type": "audio_url", "audio_url": {"url": uploaded.id}}, "How does the voice sound?")
    )  # fmt: skip
    texts = {reply.choices[0].message.content for reply in (first, by_part, by_url)}
    assert len(texts) == 1
    client.files.delete(uploaded.id)
    with pytest.raises(openai.NotFoundError):
        ask(client, user({"type": "file", "file": {"file_id": uploaded.id}}, "Why?"))


def test_only_a_clip_is_a_clip(client: Any, manifest: Callable[..., bytes]) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        client.files.create(file=("notes.txt", b"hello there"), purpose="vision")
    assert caught.value.code == "unsupported_media"
    bundle = client.files.create(file=("train.jsonl", manifest()), purpose="fine-tune")
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, user({"type": "file", "file": {"file_id": bundle.id}}, "Why?"))
    assert "fine-tune" in refused.value.message


def test_of_two_clips_the_newest_is_meant_unless_another_is_named(client: Any, media: Any, tmp_path: Path) -> None:
    angry = part(media.wav(tmp_path / "a.wav", seconds=0.5))
    glad = part(media.wav(tmp_path / "b.wav", seconds=0.6), transcript="What a lovely day, I am so happy and glad!")
    form = {"type": "json_object"}

    def emotion(question: str) -> str:
        messages = [user(angry, "What is felt?"), {"role": "assistant", "content": "Anger."}, user(glad, question)]
        reply = ask(client, *messages, response_format=form)
        return str(json.loads(reply.choices[0].message.content)["emotion"])

    assert emotion("What is felt?") == "happy"
    assert emotion("What is felt in the first clip?") == "angry"
    with pytest.raises(openai.BadRequestError):
        emotion("And in clip 3?")


def test_an_unknown_model_is_not_found(client: Any, clip: Path) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="mega", messages=[user(part(clip), "Why?")])
    assert caught.value.code == "model_not_found"


def test_silence_without_words_claims_nothing(client: Any, clip: Path) -> None:
    message = user({"type": "audio_url", "audio_url": {"url": data_url(clip)}}, "What is felt?")
    reply = ask(client, message)
    assert "No emotion is claimed" in reply.choices[0].message.content
    assert reply.choices[0].finish_reason == "stop"


def test_tokens_and_the_time_to_the_first_are_measured(client: Any, clip: Path, service: Any) -> None:
    def measured() -> dict[str, float]:
        lines = httpx.get(f"{service.url}/metrics").text.splitlines()
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}

    before = measured()
    usage = ask(client, user(part(clip), "What does the person appear to feel?")).usage
    after = measured()
    for kind, number in (("prompt", usage.prompt_tokens), ("completion", usage.completion_tokens)):
        name = f'emollama_tokens_total{{kind="{kind}"}}'
        assert after[name] - before.get(name, 0.0) == number
    name = "emollama_time_to_first_token_seconds_count"
    assert after[name] - before[name] == 1
