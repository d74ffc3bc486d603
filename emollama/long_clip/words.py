"""The words of a long clip: a transcript with times is divided among the windows in which the words are said."""

from __future__ import annotations

from collections.abc import Iterator

from emollama.errors import InputError
from emollama.subtitles import read_subtitles
from emollama.types import Transcript, TranscriptSegment

MAX_CHARACTERS = 2_000_000  # some forty hours of talk


class SpokenWords:
    """A given transcript, asked window by window. One without times belongs to the whole clip alone."""

    def __init__(self, transcript: Transcript | None) -> None:
        self.transcript = transcript
        self._pieces = () if transcript is None else transcript.segments

    @classmethod
    def given(cls, transcript: str | Transcript | None, *, language: str | None) -> SpokenWords:
        """Read what a caller gave: words, the text of a subtitle file, or a transcript; blank words are none."""
        if isinstance(transcript, str):
            text = transcript
            if len(text) <= MAX_CHARACTERS and "-->" in text:
                transcript = read_subtitles(text, language=language)
            else:
                transcript = Transcript(text=" ".join(text.split()), language=language, source="given")
        if transcript is None or not transcript.text.strip():
            return cls(None)
        if len(transcript.text) > MAX_CHARACTERS:
            raise InputError(
                f"transcript has {len(transcript.text):,} characters; allowed: at most {MAX_CHARACTERS:,}",
                field="transcript",
            )
        return cls(transcript)

    @property
    def has_times(self) -> bool:
        return bool(self._pieces)

    def between(self, start: float, end: float, *, is_last: bool = False) -> Transcript | None:
        """Return the words said from ``start`` up to ``end``; the last window has whatever comes later, too.

        A line belongs to the window that holds its middle, so that no sentence is torn; one that is longer than the
        window is divided, as if its words came evenly.
        """
        if self.transcript is None:
            return None
        until = float("inf") if is_last else end
        said = [p for piece in self._pieces for p in _within(piece, start, until, longest=end - start)]
        if not said:
            return None
        return Transcript(
            text=" ".join(piece.text for piece in said),
            language=self.transcript.language,
            segments=tuple(said),
            source=self.transcript.source,
        )


def _within(piece: TranscriptSegment, start: float, end: float, *, longest: float) -> Iterator[TranscriptSegment]:
    length = piece.end - piece.start
    if length <= longest:
        if start <= (piece.start + piece.end) / 2 < end:
            yield piece
        return
    words = piece.text.split()
    times = [piece.start + (index + 0.5) / len(words) * length for index in range(len(words))]
    inside = [word for word, time in zip(words, times, strict=True) if start <= time < end]
    if inside:
        yield TranscriptSegment(start=max(start, piece.start), end=min(end, piece.end), text=" ".join(inside))


def joined(parts: list[Transcript]) -> Transcript | None:
    """Return what was heard in the windows as one transcript."""
    if not parts:
        return None
    return Transcript(
        text=" ".join(part.text for part in parts),
        language=parts[0].language,
        segments=tuple(segment for part in parts for segment in part.segments),
        source=parts[0].source,
    )
