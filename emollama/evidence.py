"""Readings -> evidence that can be checked, the cues a rationale may speak of, and the check that it kept to them.

Every item of evidence carries its time span, the reading it comes from and the value that was read. Face evidence
are the smoothed segments of the main track; voice evidence is what was measured on the signal and the voice head's
verdict; the words that carry a decision are found by occlusion (leave one unit out and see how far the label's
log-likelihood falls; Li et al., "Understanding Neural Networks through Representation Erasure", 2016).

The module knows nothing of the model: occlusion asks a function for scores.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from emollama import timeline
from emollama.labels import NANO_LABELS, adjective, canonical
from emollama.parse import stated_labels
from emollama.prompt import MAX_FACE_CUES, SOURCES, Cues, FaceCue, Level, Slots, Source, VoiceCue
from emollama.types import Evidence, FaceReadings, FaceTrack, Segment, Transcript, VoiceReadings, VoiceSegment

# Mean probability of an expression over its stretch, from which its strength is named.
STRENGTH_MEDIUM, STRENGTH_HIGH = 0.55, 0.80
# An emotion beside the answer is named from this probability on; at most two are.
OTHERS_FROM, MAX_OTHERS = 0.10, 2
MAX_OCCLUSIONS = 24
MAX_QUOTE_WORDS = 6
MAX_VOICE_SEGMENTS = 3


def strength(probability: float) -> Level:
    """Name how strong an expression is from the mean probability of its stretch."""
    if probability >= STRENGTH_HIGH:
        return "high"
    return "medium" if probability >= STRENGTH_MEDIUM else "low"


# ---- face ---------------------------------------------------------------------------------------------------------


def face_verdict(readings: FaceReadings) -> str:
    """Return the expression with the highest mean probability over the track."""
    return readings.labels[int(np.mean(readings.probabilities, axis=0).argmax())]


def face_cues(segments: Sequence[Segment]) -> tuple[FaceCue, ...]:
    """Return at most `MAX_FACE_CUES` cues in time order; of more segments the longest and surest are kept."""
    weight = [(s.end - s.start + 1e-3) * s.scores[s.label] for s in segments]
    kept = sorted(sorted(range(len(segments)), key=lambda i: -weight[i])[:MAX_FACE_CUES])
    cues: list[FaceCue] = []
    for segment in (segments[i] for i in kept):
        level = strength(segment.scores[segment.label])
        if cues and cues[-1].label == segment.label and segment.start - cues[-1].end < 1.0:
            cues[-1] = replace(cues[-1], end=segment.end, strength=max(cues[-1].strength, level, key=_LEVELS.index))
        else:
            cues.append(FaceCue(start=segment.start, end=segment.end, label=segment.label, strength=level))
    return tuple(cues)


_LEVELS: tuple[Level, ...] = ("low", "medium", "high")


def face_evidence(readings: FaceReadings, segments: Sequence[Segment]) -> tuple[Evidence, ...]:
    """Return one item a segment: the expression, its mean probability, and in the cue's text when it was strongest."""
    items = []
    for segment in segments:
        column = readings.labels.index(segment.label)
        inside = (readings.times >= segment.start - 1e-6) & (readings.times <= segment.end + 1e-6)
        rows = np.flatnonzero(inside)
        probability = segment.scores[segment.label]
        cue = f"the face appears {adjective(segment.label)} ({strength(probability)} strength)"
        if len(rows) > 1:
            peak = float(readings.times[rows[readings.probabilities[rows, column].argmax()]])
            cue += f", most clearly at {peak:.1f} s"
        items.append(
            Evidence(
                start=segment.start,
                end=segment.end,
                cue=cue,
                reading=f"face.{segment.label}.probability",
                value=round(float(probability), 4),
                supports=segment.label,
                track=segment.track,
            )
        )
    return tuple(items)


def opinion_of(alone: Mapping[str, float], track: FaceTrack) -> Segment:
    """Return what a model says of a face by itself, as one stretch of its whole track; nothing was measured there."""
    label = max(alone, key=alone.__getitem__)
    return Segment(
        start=float(track.times[0]), end=float(track.times[-1]), label=label, scores=dict(alone),
        valence=None, arousal=None, track=track.track_id,
    )  # fmt: skip


def opinion_evidence(segments: Sequence[Segment]) -> tuple[Evidence, ...]:
    """Return one item an opinion of `opinion_of`; its reading says that it is the model's."""
    return tuple(
        Evidence(
            start=segment.start,
            end=segment.end,
            cue=f"the face appears {adjective(segment.label)} ({strength(segment.scores[segment.label])} strength)",
            reading=f"model.face.{segment.label}.probability",
            value=round(segment.scores[segment.label], 4),
            supports=segment.label,
            track=segment.track,
        )
        for segment in segments
    )


# ---- voice --------------------------------------------------------------------------------------------------------


def voice_verdict(readings: VoiceReadings) -> str | None:
    """Return the voice head's label, or ``None`` when no voice was heard or no head has judged it."""
    if not readings.segments or readings.probabilities is None:
        return None
    return readings.labels[int(np.argmax(readings.probabilities))]


def voice_cue(readings: VoiceReadings) -> VoiceCue | None:
    """Return the voiced part, the head's verdict, and each quality's level by the length of the segments."""
    label = voice_verdict(readings)
    if label is None:
        return None
    return VoiceCue(
        start=readings.segments[0].start,
        end=readings.segments[-1].end,
        label=label,
        pitch=_level(readings.segments, "pitch"),
        loudness=_level(readings.segments, "loudness"),
        rate=_level(readings.segments, "rate"),
    )


def _level(segments: Sequence[VoiceSegment], quality: str) -> Level:
    votes = dict.fromkeys(_LEVELS, 0.0)
    for segment in segments:
        name = segment.level.get(quality, "medium")
        votes["low" if name == "low" else "high" if name == "high" else "medium"] += segment.end - segment.start
    return max(votes, key=votes.__getitem__)


def voice_evidence(readings: VoiceReadings) -> tuple[Evidence, ...]:
    """Return the head's verdict and, for the longest voiced segments, measured pitch, loudness and speech rate."""
    if not readings.segments:
        return ()
    items = []
    label = voice_verdict(readings)
    if label is not None and readings.probabilities is not None:
        items.append(
            Evidence(
                start=readings.segments[0].start,
                end=readings.segments[-1].end,
                cue=f"the voice sounds {adjective(label)}",
                reading=f"voice.{label}.probability",
                value=round(float(np.max(readings.probabilities)), 4),
                supports=label,
            )
        )
    longest = sorted(readings.segments, key=lambda s: s.start - s.end)[:MAX_VOICE_SEGMENTS]
    for segment in sorted(longest, key=lambda s: s.start):
        for quality, reading, value, cue in (
            ("pitch", "voice.pitch_hz", segment.pitch_hz, "pitch of {:.0f} Hz"),
            ("loudness", "voice.loudness_dbfs", segment.loudness_dbfs, "loudness of {:.0f} dBFS"),
            ("rate", "voice.syllables_per_second", segment.syllables_per_second, "{:.1f} syllables a second"),
        ):
            if not np.isfinite(value):
                continue
            level = segment.level.get(quality)
            text = cue.format(value) + (f" ({level})" if level else "")
            items.append(
                Evidence(start=segment.start, end=segment.end, cue=text, reading=reading, value=round(float(value), 3))
            )
    return tuple(items)


# ---- words --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Quote:
    """The words that carry a label: ``text`` as written, word indices [first, last], and how far the label's
    log-likelihood falls (nats) when they are left out."""

    text: str
    first: int
    last: int
    drop: float


_WORD = re.compile(r"\S+")
_NEGATIONS = {
    "not", "no", "never", "don't", "can't", "won't", "isn't", "wasn't", "didn't", "doesn't", "cannot", "nothing",
}  # fmt: skip
_LINKS = {
    "a", "an", "and", "as", "at", "be", "but", "by", "for", "from", "in", "is", "it", "of", "on", "or", "so", "that",
    "the", "this", "to", "was", "were", "with", "are", "am",
}  # fmt: skip


def find_quote(text: str, score: Callable[[Sequence[str]], np.ndarray]) -> Quote | None:
    """Find the words that carry a label; ``score(texts) -> [n]`` is the label's log-likelihood under each text.

    At most `MAX_OCCLUSIONS` variants are scored in one call. A long text is first narrowed to the chunk that matters
    most, in one call more. Text without a word gives ``None``.
    """
    spans = [match.span() for match in _WORD.finditer(text)]
    if not any(any(c.isalnum() for c in text[a:b]) for a, b in spans):
        return None
    offset = 0
    if len(spans) > 2 * MAX_OCCLUSIONS:
        chunks = _chunks(text, spans)
        drops = _drops(text, spans, chunks, score)
        first, last = chunks[int(drops.argmax())]
        offset, spans = first, spans[first : last + 1]
    width = -(-len(spans) // MAX_OCCLUSIONS)
    units = [(i, min(i + width, len(spans)) - 1) for i in range(0, len(spans), width)]
    begin, stop = spans[0][0], spans[-1][1]
    local = [(a - begin, b - begin) for a, b in spans]
    drops = _drops(text[begin:stop], local, units, score) if len(units) > 1 else np.array([0.0])
    first, last = _best_run(drops, units, max_words=MAX_QUOTE_WORDS)
    total = float(sum(d for d, (a, b) in zip(drops, units, strict=True) if a >= first and b <= last))
    words = [text[a:b] for a, b in spans]
    if first > 0 and last - first + 1 < MAX_QUOTE_WORDS and _bare(words[first - 1]) in _NEGATIONS:
        first -= 1
    while last > first and _bare(words[last]) in _LINKS | {""}:
        last -= 1
    while last > first and _bare(words[first]) in _LINKS | {""}:
        first += 1
    quote = text[spans[first][0] : spans[last][1]]
    quote = " ".join(quote.strip(' \t\n.,;:!?-"“”„«»()[]').split())
    if not quote:
        return None
    return Quote(text=quote[:120], first=first + offset, last=last + offset, drop=round(total, 4))


def _bare(word: str) -> str:
    return word.lower().replace("’", "'").strip('.,;:!?-"“”()[]…')


def _chunks(text: str, spans: Sequence[tuple[int, int]], *, most: int = 8) -> list[tuple[int, int]]:
    """Cut a long text into at most ``most`` stretches of words, at sentence ends where there are any near."""
    size = -(-len(spans) // most)
    cuts, start = [], 0
    while start < len(spans):
        end = min(start + size, len(spans)) - 1
        for candidate in range(end, start + size // 2, -1):
            if text[spans[candidate][0] : spans[candidate][1]].rstrip("\"”'")[-1:] in ".!?":
                end = candidate
                break
        cuts.append((start, end))
        start = end + 1
    while len(cuts) > most + 4:
        cuts[-2:] = [(cuts[-2][0], cuts[-1][1])]
    return cuts


def _drops(
    text: str,
    spans: Sequence[tuple[int, int]],
    units: Sequence[tuple[int, int]],
    score: Callable[[Sequence[str]], np.ndarray],
) -> np.ndarray:
    variants = [text]
    for first, last in units:
        variants.append((text[: spans[first][0]] + text[spans[last][1] :]).strip())
    # A variant without any word cannot be asked; leaving out everything tells nothing.
    scores = np.asarray(score([variant if variant else "…" for variant in variants]), dtype=np.float64)
    return scores[0] - scores[1:]


def _best_run(drops: np.ndarray, units: Sequence[tuple[int, int]], *, max_words: int) -> tuple[int, int]:
    """Return the word range of the contiguous units whose drops sum highest within ``max_words``."""
    # A word must add something to be quoted: otherwise empty neighbours would come along for nothing.
    worth = drops - 0.05 * max(float(drops.max()), 0.0)
    best, best_sum = units[int(drops.argmax())], -np.inf
    for i in range(len(units)):
        total = 0.0
        for j in range(i, len(units)):
            if j > i and units[j][1] - units[i][0] + 1 > max_words:
                break
            total += float(worth[j])
            if total > best_sum + 1e-9:
                best, best_sum = (units[i][0], units[j][1]), total
    first, last = best
    return first, min(last, first + max_words - 1)


def words_evidence(transcript: Transcript, quote: Quote, *, label: str, clip_seconds: float) -> Evidence:
    """Return the quote as evidence, with its segment's times when the transcript has them, else the whole clip's."""
    start, end = quote_span(transcript, quote) or (0.0, round(clip_seconds, 3))
    return Evidence(
        start=start,
        end=end,
        cue=f"the words “{quote.text}”",
        reading="words.occlusion_drop_nats",
        value=quote.drop,
        supports=label,
    )


def quote_span(transcript: Transcript, quote: Quote) -> tuple[float, float] | None:
    """Return the times of the segments that hold the quote, or ``None`` when the transcript has no times for it."""
    counts = [len(segment.text.split()) for segment in transcript.segments]
    if transcript.segments and sum(counts) == len(transcript.text.split()):
        ends = np.cumsum(counts)
        first = int(np.searchsorted(ends, quote.first, side="right"))
        last = int(np.searchsorted(ends, quote.last, side="right"))
        return transcript.segments[first].start, transcript.segments[last].end
    needle = quote.text.casefold()
    for segment in transcript.segments:
        if needle in " ".join(segment.text.split()).casefold():
            return segment.start, segment.end
    return None


# ---- putting together ---------------------------------------------------------------------------------------------


def segments_of(readings: FaceReadings, *, until: float | None = None) -> tuple[Segment, ...]:
    """Return the main track's segments in the readings' own labels, as the evidence speaks of them."""
    return timeline.segments(readings, until=until)


def lead_of(final: str, verdicts: Mapping[Source, str], support: Mapping[Source, float]) -> Source | None:
    """Return the modality that decided: of those whose verdict is the answer, the one that alone is surest of it.

    ``support`` is the probability each modality alone gives the answer. One modality leads nothing, and an answer that
    none of them gave by itself was led by none.
    """
    behind = [source for source in verdicts if canonical(verdicts[source]) == canonical(final)]
    if len(verdicts) < 2 or not behind:
        return None
    return max(behind, key=lambda source: support.get(source, 0.0))


def agreement_of(verdicts: Mapping[Source, str]) -> Literal["agree", "conflict", "single"]:
    """Return "single" for one modality, else whether all verdicts "agree" or there is a "conflict"."""
    if len(verdicts) < 2:
        return "single"
    return "agree" if len({canonical(v) for v in verdicts.values()}) == 1 else "conflict"


def others_of(label: str, scores: Mapping[str, float]) -> tuple[str, ...]:
    """Return the labels beside the answer that a sentence may name; only those that nano has words for."""
    ranked = sorted((name for name in scores if name != label), key=lambda name: -scores[name])
    known = [name for name in ranked if canonical(name) in NANO_LABELS and scores[name] >= OTHERS_FROM]
    return tuple(known[:MAX_OTHERS])


# ---- checking -----------------------------------------------------------------------------------------------------

_MENTIONS: Mapping[Source, str] = {
    "face": r"face|facial|expression|smil\w+|frown\w*|mouth|lips?|(?:eye)?brows?|eyes?|eyelids?|cheeks?|jaw|gaze|nose",
    "voice": (
        r"voice|vocal|pitch|tone|loud\w*|quiet\w*|speech|speaks|speaking|spoken|sounds?|syllables?|listen\w*|heard|audio"
    ),
    "words": r"words?|wording|transcript|says|what (?:is|was) said|(?:person|they) said|quote\w*|text|sentence|phrase",
}
_NEGATED = re.compile(
    r"\b(?:no|not|nor|neither|never|without|nothing|none|missing|absent|lack\w*|cannot|couldn|isn|wasn)\b",
    flags=re.IGNORECASE,
)
# "a voice that can be heard could change this": says what is not there
_HYPOTHETICAL = re.compile(r"\b(?:could|would|if)\b", flags=re.IGNORECASE)
_IN_WORDS = re.compile(r"\bsounds \w+ in words\b", flags=re.IGNORECASE)
_SLOT = re.compile(r"<[tqva]\d+>|<\|[^>]*\|>|</?s>|<label:[^>]*>|<pad>")
_TIME = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)\s*(?:s|sec|seconds?)\b")
_QUOTED = re.compile(r"“([^”]*)”")


def check_rationale(
    text: str, cues: Cues, *, must_state: bool = True, times: Sequence[float] = (), words: str = ""
) -> list[str]:
    """Return what is wrong with a rationale, as sentences; an empty list means that every claim rests on a cue.

    Checked: unfilled slots, a label other than the scored one, "is" where only "appears" may be said, times that were
    not measured, quotes that are not in the words, a modality said to read as something that it did not, and an absent
    modality spoken of as if it had been there. With ``must_state`` the label has to be named; the answer to "how sure
    are you?" need not. ``times`` are further seconds that were measured, ``words`` a transcript that may be quoted.
    """
    problems = []
    if not text.strip():
        return ["The rationale is empty."]
    slots = _SLOT.findall(text)
    if slots:
        problems.append(f"The rationale holds unfilled slots: {', '.join(sorted(set(slots)))}.")
    quotes = _QUOTED.findall(text)
    allowed = _normal(cues.words.quote) if cues.words is not None else None
    problems.extend(
        f"The rationale quotes “{quote}”, which is not the quote that was found."
        for quote in quotes
        if (allowed is None or _normal(quote) != allowed) and not (_normal(quote) and _normal(quote) in _normal(words))
    )
    prose = _QUOTED.sub("“”", text)
    problems.extend(_label_problems(prose, cues, must_state=must_state))
    problems.extend(_reading_problems(prose, cues))
    slots_of_time = [value for value in Slots.of(cues).values.values() if re.fullmatch(r"[\d.]+ s", value)]
    measured = [*(float(value[:-2]) for value in slots_of_time), *times]
    problems.extend(
        f"The rationale cites {time} s, which was not measured."
        for time in dict.fromkeys(_TIME.findall(prose))
        if not any(abs(float(time) - value) <= 0.051 for value in measured)
    )
    for source in SOURCES:
        if not cues.present[source] and speaks_of(prose, source):
            problems.append(f"The rationale speaks of the {source}, which the clip does not have.")
    return problems


def _label_problems(prose: str, cues: Cues, *, must_state: bool) -> list[str]:
    names = tuple(dict.fromkeys((*NANO_LABELS, *([] if canonical(cues.label) in NANO_LABELS else [cues.label]))))
    claimed = stated_labels(prose, labels=names)
    right = {canonical(cues.label)} | (set() if must_state else {canonical(other) for other in cues.others})
    wrong = [label for label in claimed if canonical(label) not in right]
    problems = [f"The rationale says that the person appears {adjective(label)}, not {cues.label}." for label in wrong]
    if (
        must_state
        and not claimed
        and not re.search(rf"\b{re.escape(adjective(cues.label))}\b", prose, flags=re.IGNORECASE)
    ):
        problems.append(f"The rationale does not state the label {cues.label}.")
    states = "|".join(re.escape(adjective(name)) for name in names)
    if re.search(rf"\b(?:person|speaker|they|he|she)\s+(?:is|are)\s+(?:{states})\b", prose, flags=re.IGNORECASE):
        problems.append("The rationale says what the person is; only what appears may be said.")
    return problems


_NOT_A_READING = re.compile(r"\b(?:if|person|impression)\b", flags=re.IGNORECASE)


def _reading_problems(prose: str, cues: Cues) -> list[str]:
    """Find clauses that name one modality and an emotion which neither it nor the verdict showed."""
    shown: dict[Source, set[str]] = {"face": {cue.label for cue in cues.face}}
    shown["voice"] = {cues.voice.label} if cues.voice is not None else set()
    shown["words"] = {cues.words.label} if cues.words is not None else set()
    adjectives = {adjective(name): name for name in NANO_LABELS}
    problems = []
    for clause in re.split(r"[,;:]|(?<=[.!?])\s+|\bwhile\b|\band\b|\bfor\b|\bbut\b", prose):
        named = [source for source in SOURCES if re.search(rf"\bthe {source}\b", clause, flags=re.IGNORECASE)]
        if len(named) != 1 or not cues.present[named[0]] or _NOT_A_READING.search(clause):
            continue
        for word, name in adjectives.items():
            if re.search(rf"\b{word}\b", clause, flags=re.IGNORECASE) and name not in shown[named[0]]:
                problems.append(f"The rationale says that the {named[0]} appears {word}, which was not read from it.")
    return problems


def _normal(text: str) -> str:
    return " ".join(text.split()).casefold()


def mentions(text: str, source: Source) -> bool:
    """Say whether a text names a modality or what belongs to it: a smile is of the face, a pitch of the voice."""
    return re.search(rf"\b(?:{_MENTIONS[source]})\b", text, flags=re.IGNORECASE) is not None


def speaks_of(prose: str, source: Source) -> bool:
    """Say whether a clause mentions the modality without denying it."""
    for sentence in re.split(r"(?<=[.!?])\s+", _IN_WORDS.sub("", prose)):
        if _HYPOTHETICAL.search(sentence):
            continue
        denied_before = False
        for clause in re.split(r"[,;:]|\bbut\b|\bso\b|\bwhile\b", sentence):
            denied = _NEGATED.search(clause) is not None
            # "no face, voice or words": the denial reaches over the rest of a short list
            short = len(clause.split()) <= 4
            if mentions(clause, source) and not (denied or (denied_before and short)):
                return True
            denied_before = denied or (denied_before and short)
    return False


# ---- the readings' own sentences ----------------------------------------------------------------------------------


def plain_rationale(cues: Cues) -> str:
    """Write a rationale from the cues alone, in fixed sentences; used when the decoded one failed its check."""
    sure = {"low": "not very sure", "medium": "fairly sure", "high": "quite sure"}[cues.confidence]
    word = adjective(cues.label)
    sentences = [
        f"The person appears {word}, though this is too unsure to be claimed."
        if cues.abstained
        else f"The person appears {word}; this reading is {sure}."
    ]
    if cues.face:
        if cues.still:
            stretches = " and ".join(f"{adjective(cue.label)} ({cue.strength} strength)" for cue in cues.face)
            sentences.append(f"In the picture the face looks {stretches}.")
        else:
            stretches = ", then ".join(
                f"{adjective(cue.label)} from {cue.start:.1f} s to {cue.end:.1f} s ({cue.strength} strength)"
                for cue in cues.face
            )
            sentences.append(f"The face looks {stretches}.")
    if cues.voice is not None:
        voice = cues.voice
        levels = f"{voice.pitch} pitch, {voice.loudness} loudness and a {voice.rate} speech rate"
        span = f"From {voice.start:.1f} s to {voice.end:.1f} s"
        sentences.append(f"{span} the voice sounds {adjective(voice.label)}, with {levels}.")
    if cues.words is not None:
        sentences.append(f"The words “{cues.words.quote}” point to {canonical(cues.words.label)}.")
    if cues.agreement == "conflict" and cues.lead is not None:
        sentences.append(f"They do not agree; the {cues.lead} weighed most.")
    missing = {"face": "no face to look at", "voice": "no voice to listen to", "words": "no words to read"}
    if cues.absent:
        sentences.append(f"There was {' and '.join(missing[source] for source in cues.absent)}.")
    return " ".join(sentences)
