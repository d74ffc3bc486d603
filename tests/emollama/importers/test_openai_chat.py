"""Chat JSONL: parts become a clip and a dialogue; what could fetch, escape or overflow is refused."""

from __future__ import annotations

import base64
import json

import pytest

from emollama.errors import DatasetError
from emollama.importers import load_importer
from emollama.importers.clips import ClipFolder

WAV = b"RIFF\x24\x00\x00\x00WAVEfmt \x10\x00\x00\x00" + bytes(24)
import_openai_chat = load_importer("openai_chat")


def line(*parts: object, answer: object = "It appears calm.", **beside: object) -> dict[str, object]:
    turns = [{"role": "user", "content": list(parts)}, {"role": "assistant", "content": answer}]
    return {"messages": turns, **beside}


def chat(folder, *lines: object):
    path = folder / "chat.jsonl"
    path.write_text("".join((text if isinstance(text, str) else json.dumps(text)) + "\n" for text in lines))
    return path


TEXT = {"type": "text", "text": "How does this person feel?"}


def url(kind: str, where: str) -> dict[str, object]:
    return {"type": kind, kind: {"url": where}}


def test_parts_become_a_clip_and_a_dialogue(tmp_path, clip, round_trip) -> None:
    clip(tmp_path, "clips/a.mp4")
    clip(tmp_path, "b c.wav")
    path = chat(
        tmp_path,
        {
            "messages": [
                {"role": "developer", "content": "Be brief."},
                {"role": "user", "content": [url("video_url", "clips/a.mp4"), TEXT, {"type": "text", "text": "Why?"}]},
                {"role": "assistant", "content": [{"type": "text", "text": "A smile."}], "weight": 1},
            ],
            "id": "first", "label": "joy", "split": "valid", "speaker": "s1", "parallel_tool_calls": False,
        },
        line({"type": "audio_url", "audio_url": "b%20c.wav"}, TEXT),
        {
            "messages": [{"role": "user", "content": "Feeling?"}, {"role": "assistant", "content": "Sad."}],
            "transcript": "I lost it.",
        },
    )  # fmt: skip
    first, second, third = round_trip(tmp_path, import_openai_chat(path))
    assert (first.id, first.clip, first.label, first.split, first.speaker) == (
        "first",
        "clips/a.mp4",
        "joy",
        "valid",
        "s1",
    )
    assert [(m.role, m.content) for m in first.messages or ()] == [
        ("system", "Be brief."),
        ("user", "How does this person feel?\nWhy?"),
        ("assistant", "A smile."),
    ]
    assert (second.id, second.clip) == ("chat-2", "b c.wav")
    assert (third.clip, third.transcript) == (None, "I lost it.")


def test_data_urls_and_base64_are_decoded_beside_the_manifest(tmp_path, round_trip) -> None:
    encoded = base64.b64encode(WAV).decode()
    path = chat(
        tmp_path,
        line(url("audio_url", f"data:audio/x-wav;base64,{encoded}"), TEXT),
        line({"type": "input_audio", "input_audio": {"data": encoded, "format": "mp3"}}, TEXT),
    )
    out = tmp_path / "out"
    first, second = round_trip(out, import_openai_chat(path, clips=ClipFolder(root=out)))
    assert first.clip == second.clip  # the same bytes are one file, and its suffix is told from them
    assert str(first.clip).startswith("clips/")
    assert str(first.clip).endswith(".wav")
    assert (out / str(first.clip)).read_bytes() == WAV


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        (line(url("video_url", "https://example.org/a.mp4"), TEXT), r"chat\.jsonl:1: .*fetches nothing .*download it"),
        (line(url("video_url", "file:///etc/passwd"), TEXT), r"allowed: a path relative to the media folder"),
        (line(url("video_url", "/etc/passwd"), TEXT), r"leads out of the media folder"),
        (line(url("video_url", "../a.mp4"), TEXT), r"leads out of the media folder"),
        (line(url("video_url", "%2e%2e/a.mp4"), TEXT), r"leads out of the media folder"),
        (line(url("video_url", "no.mp4"), TEXT), r"no file 'no\.mp4' below .*put the file there"),
        (line(url("video_url", "a.wav"), url("audio_url", "a.wav")), r"content\[1\]: a second clip; .*line of its own"),
        (line(url("video_url", ""), TEXT), r"content\[0\]\.video_url\.url: missing"),
        (line(url("video_url", "data:video/mp4;base64"), TEXT), r"a data: URL without a comma"),
        (line(url("video_url", "data:video/mp4;base64,@@@@"), TEXT), r"not base64 .*encode the file's bytes again"),
        (line(url("video_url", "data:text/plain,hello"), TEXT), r"content\[0\]: .*this project reads mp4"),
        (line({"type": "input_audio", "input_audio": {}}), r"input_audio\.data: missing"),
        (line({"type": "file", "file": {}}), r"a part of type 'file'; allowed: text, video_url"),
        (line(TEXT), r"messages: no clip; add a video_url"),
        (line(url("video_url", "a.wav"), mood="x"), r"mood: an unknown field; beside messages are allowed: arousal"),
        (line(url("video_url", "a.wav"), TEXT, split="dev"), r"split: .*'dev'"),
        (line(url("video_url", "a.wav"), answer=[url("video_url", "a.wav")]), r"a clip in a turn of role 'assistant'"),
        (line(url("video_url", "a.wav"), TEXT, answer=" "), r"messages: turn 2 \(assistant\) is empty"),
        (line(url("video_url", "a.wav"), answer=None), r"messages\[1\]\.content: NoneType; allowed"),
        ({"messages": [{"role": "tool", "content": "x"}]}, r"messages\[0\]\.role: 'tool'; allowed: system, developer"),
        ({"messages": [{"role": "assistant", "content": "x", "weight": 0}]}, r"weight: 0; every answer is learned"),
        ({"messages": ["x"]}, r"messages\[0\]: str; allowed: an object"),
        ({"prompt": "x"}, r"messages: a line must be"),
        ("{", r"chat\.jsonl:1: not a line of JSON"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_line_and_field(tmp_path, clip, row, wanted) -> None:
    clip(tmp_path, "a.wav")
    with pytest.raises(DatasetError, match=wanted):
        list(import_openai_chat(chat(tmp_path, row)))


def test_what_is_too_large_is_refused_before_it_is_decoded(tmp_path) -> None:
    encoded = base64.b64encode(WAV + bytes(4000)).decode()
    path = chat(tmp_path, line(url("audio_url", f"data:audio/wav;base64,{encoded}"), TEXT))
    with pytest.raises(DatasetError, match="the clip has more than 1000 bytes; shorten it"):
        list(import_openai_chat(path, max_clip_bytes=1000))
    path = chat(tmp_path, line(url("audio_url", "data:audio/wav," + "%00" * 4000), TEXT))
    with pytest.raises(DatasetError, match="the clip has more than 1000 bytes"):
        list(import_openai_chat(path, max_clip_bytes=1000))
    path = chat(tmp_path, line(url("audio_url", "x" * 1_100_000), TEXT))
    with pytest.raises(DatasetError, match=r"chat\.jsonl:1: the line is longer than"):
        list(import_openai_chat(path, max_clip_bytes=1000))
    assert not (tmp_path / "clips").exists()
