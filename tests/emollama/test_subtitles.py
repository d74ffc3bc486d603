import pytest

from emollama.errors import InputError
from emollama.subtitles import read_subtitles

SRT = """\ufeff1
00:00:01,500 --> 00:00:03,000
<i>I never</i> thought

2
00:01:03,250 --> 00:01:04,000
I'd see &amp; hear
this again.
"""
VTT = """WEBVTT

NOTE made by hand

intro
00:01.500 --> 00:03.000 line:0
<v Ann>Hello

00:05.000 --> 00:06.000
"""


def test_subrip_gives_words_with_their_times():
    transcript = read_subtitles(SRT, language="en")
    assert transcript.text == "I never thought I'd see & hear this again."
    assert [(s.start, s.end) for s in transcript.segments] == [(1.5, 3.0), (63.25, 64.0)]
    assert transcript.language == "en"
    assert read_subtitles(SRT.replace("\n", "\r\n")).text == transcript.text


def test_webvtt_without_hours_notes_and_speakers():
    transcript = read_subtitles(VTT)
    assert [(s.start, s.end, s.text) for s in transcript.segments] == [(1.5, 3.0, "Hello")]


@pytest.mark.parametrize("text", ["", "just words", "1\n00:00:05,000 --> 00:00:01,000\nbackwards\n"])
def test_a_file_without_cues_is_an_input_error(text):
    with pytest.raises(InputError, match="no timed line"):
        read_subtitles(text)
