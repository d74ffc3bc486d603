"""A conversation about clips: read one once, then answer questions about it, several at a time, token by token.

A `Reading` is a clip that was understood, without its pictures and sound: the computed prefix, the cues and what the
answers may speak of; it may be kept and asked again. Every answer branches off it. The replies are decoded by
`emollama.generate.Engine`, so those of one request and of others share the steps.

nano answers within what the readings support: the kind of answer is chosen by the question's words and the model's
likelihood, and the wording by the model. JSON is held to its schema while it is decoded. A model that was taught words
of its own writes freely and is checked afterwards, so its answer comes in one piece.
"""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from emollama import evidence as ev
from emollama.analyze import Understanding
from emollama.chat_engines import chat_engine_of
from emollama.errors import CancelledError, InputError
from emollama.json_answers import Facts, Piece, first_document, pieces_of
from emollama.labels import parse_label_set
from emollama.phrases import supported_answers
from emollama.prompt import DEFAULT_QUESTION, NOTHING_TO_JUDGE, Slots
from emollama.questions import kinds_for
from emollama.reply_text import ReplyText

if TYPE_CHECKING:
    from emollama.analyze import Analyzer
    from emollama.media import MediaLimits
    from emollama.paged_parts import Prompts
    from emollama.runtime import Prefix, Sampling
    from emollama.types import Clip, Transcript

MAX_TOKENS = 192
MAX_JSON_TOKENS = 600
MAX_QUESTION_CHARACTERS = 2_000
MAX_ANSWER_CHARACTERS = 2_000
_ANSWERS_OF_A_KIND = 12
_RETRIES = ((0.7, 1), (0.7, 2))  # (temperature, seed) when a free answer fails its check

Finish = Literal["stop", "length"]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A clip that was read once. ``prefix`` is None when there was nothing to judge; ``ms`` is what reading it took."""

    seen: Understanding
    prefix: Prefix | Prompts | None
    ms: Mapping[str, float]

    @property
    def num_tokens(self) -> int:
        """Prompt tokens of the clip itself."""
        return 0 if self.prefix is None else self.prefix.lengths[0]

    @property
    def num_bytes(self) -> int:
        """About how much memory it takes."""
        held = sum(tokens.nbytes for tokens in self.seen.features.values())
        if self.prefix is not None:
            held += self.prefix.num_bytes
        words = self.seen.transcript
        return held + 16_384 + (0 if words is None else 4 * len(words.text))


@dataclass(frozen=True, kw_only=True)
class Turn:
    """An earlier question about the same clip, and what was answered."""

    question: str
    answer: str


@dataclass(frozen=True, kw_only=True)
class AnswerForm:
    """The form of an answer: sentences, a JSON object, or (with ``schema``) JSON of that schema."""

    kind: Literal["text", "json_object", "json_schema"] = "text"
    schema: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class ReplyOptions:
    """How replies are decoded; ``stop`` strings end a reply and are not part of it. ``seed`` None is a random one."""

    max_tokens: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    top_logprobs: int | None = None
    count: int = 1
    form: AnswerForm = field(default_factory=AnswerForm)


@dataclass(frozen=True, kw_only=True)
class TokenChance:
    """A token's text and the logarithm of its probability among the tokens that were allowed there."""

    text: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Said:
    """A piece of reply ``index``: new text, the tokens it stands for, and at its end why it ended."""

    index: int
    text: str = ""
    num_tokens: int = 0
    chances: tuple[TokenChance, ...] = ()
    finish: Finish | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A question with everything before it, computed; ``num_dropped`` earliest turns did not fit."""

    reading: Reading
    question: str
    prefix: Prefix | Prompts | None
    num_tokens: int
    num_dropped: int
    pieces: tuple[Piece, ...] | None
    ms: float


class Conversation:
    """Answers questions about clips with an analyzer's parts. May be called from several threads at once."""

    def __init__(self, analyzer: Analyzer, *, max_rows: int = 8, max_waiting: int = 256) -> None:
        self.analyzer = analyzer
        self._chat = chat_engine_of(analyzer.parts.engine, max_rows=max_rows, max_waiting=max_waiting)
        self._engine = self._chat.replies
        self._renderer = analyzer.parts.renderer
        added = self._renderer.tokenizer.get_added_tokens_decoder()
        self._markers = frozenset(token_id for token_id, token in added.items() if token.special)

    @property
    def takes_seeds(self) -> bool:
        """Whether a reply that is drawn can be drawn again by its seed."""
        return self._chat.takes_seeds

    # ---- reading --------------------------------------------------------------------------------------------------

    def read(
        self,
        source: Path | str | bytes | Clip,
        *,
        name: str | None = None,
        transcript: str | Transcript | None = None,
        limits: MediaLimits | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Reading:
        """Decode and encode a clip once; raises as `Analyzer.understand` does."""
        seen = self.analyzer.understand(source, name=name, transcript=transcript, limits=limits, cancelled=cancelled)
        # The other rows are the modalities by themselves; questions branch off the first.
        prefix = None if seen.prefix is None else self._chat.keep(seen.prefix)
        clip = dataclasses.replace(seen.clip, frames=None, audio=None)
        slim = dataclasses.replace(seen, clip=clip, tracks=(), readings=(), prefix=None)
        return Reading(seen=slim, prefix=prefix, ms=dict(seen.timings_ms))

    # ---- asking ---------------------------------------------------------------------------------------------------

    def ask(
        self, reading: Reading, question: str, *, turns: Sequence[Turn] = (), options: ReplyOptions | None = None
    ) -> Asked:
        """Compute the prompt of a question. What does not fit is left out from the earliest turn on.

        Raises `InputError` for a question that is too long, for a schema that cannot be answered, and for an option
        that the model's engine does not have.
        """
        started = time.perf_counter()
        options = options or ReplyOptions()
        question = question.strip() or DEFAULT_QUESTION
        if len(question) > MAX_QUESTION_CHARACTERS:
            raise InputError(
                f"the question has {len(question)} characters; allowed: {MAX_QUESTION_CHARACTERS}", field="messages"
            )
        self._chat.check(options)
        pieces = self._pieces(reading, options.form)
        prefix, dropped, num_tokens = reading.prefix, 0, 0
        if prefix is not None:
            cues, label = reading.seen.cues, reading.seen.emotion.label
            assert cues is not None
            assert label is not None
            marker = self._renderer.token_id("<|label|>")
            kept = [(turn.question, turn.answer[:MAX_ANSWER_CHARACTERS]) for turn in turns]
            room = self._chat.max_positions - prefix.lengths[0] - self._longest(options)
            while True:
                ids = [marker, *self._renderer.followup(label, cues, question, turns=kept)]
                if len(ids) <= room or not kept:
                    break
                kept.pop(0)
                dropped += 1
            prefix = self._chat.extend(prefix, ids)
            num_tokens = prefix.lengths[0]
        return Asked(
            reading=reading, question=question, prefix=prefix, num_tokens=num_tokens, num_dropped=dropped,
            pieces=pieces, ms=round(1000 * (time.perf_counter() - started), 2),
        )  # fmt: skip

    def _longest(self, options: ReplyOptions) -> int:
        most = MAX_TOKENS if options.form.kind == "text" else MAX_JSON_TOKENS
        return min(most, options.max_tokens or most)

    def replies(
        self, asked: Asked, options: ReplyOptions, *, cancelled: Callable[[], bool] | None = None
    ) -> Iterator[Said]:
        """Yield the pieces of ``options.count`` replies as they are decoded, side by side.

        Raises `CancelledError` when ``cancelled`` says that nobody waits.
        """
        running = [self._reply(asked, options, index, cancelled) for index in range(options.count)]
        try:
            while running:
                for reply in tuple(running):
                    said = next(reply, None)
                    if said is None:
                        running.remove(reply)
                    else:
                        yield said
        finally:
            for reply in running:
                reply.close()

    def _reply(
        self, asked: Asked, options: ReplyOptions, index: int, cancelled: Callable[[], bool] | None
    ) -> Generator[Said, None, None]:
        renderer, cues = self._renderer, asked.reading.seen.cues
        if asked.prefix is None or cues is None:
            yield from self._nothing(asked, options, index)
            return
        if options.form.kind == "text" and self.analyzer.parts.answers != "supported":
            yield from self._free(asked, options, index, cancelled)
            return
        if asked.pieces is not None:
            choices = [[renderer.encode(text) for text in piece] for piece in asked.pieces]
        else:
            kinds = kinds_for(asked.question) if options.form.kind == "text" else ("as_json",)
            answers = supported_answers(cues, kinds=kinds, count=_ANSWERS_OF_A_KIND)
            choices = [[renderer.encode(text) for text in answers]]
        constraint = Pieces(choices, end=renderer.stop_id)
        text = self._text(asked, options)
        yield from self._stream(asked, self._sampling(options, index, constraint), text, options, index, cancelled)

    def _stream(
        self,
        asked: Asked,
        sampling: Sampling,
        text: ReplyText,
        options: ReplyOptions,
        index: int,
        cancelled: Callable[[], bool] | None,
    ) -> Iterator[Said]:
        for event in self._events(asked, sampling, cancelled):
            if event.token_id is None:
                yield Said(index=index, text=text.rest(), finish="stop" if event.reason == "stop" else "length")
                return
            new = text.add(event.token_id)
            chances = (self._chance(event, text),) if options.top_logprobs is not None else ()
            finish: Finish | None = "stop" if text.is_stopped else "length" if event.reason is not None else None
            if finish == "length":
                new += text.rest()
            yield Said(index=index, text=new, num_tokens=1, chances=chances, finish=finish)
            if finish is not None:
                return

    def _events(self, asked: Asked, sampling: Sampling, cancelled: Callable[[], bool] | None) -> Iterator[Any]:
        for event in self._chat.stream(asked.prefix, sampling, cancelled):
            if event.reason == "cancelled":
                raise CancelledError("the reply was cancelled")
            if event.error is not None:
                raise event.error
            yield event

    def _text(self, asked: Asked, options: ReplyOptions) -> ReplyText:
        cues, is_json = asked.reading.seen.cues, options.form.kind != "text"
        return ReplyText(self._renderer, cues, stop=options.stop, is_json=is_json)

    def _sampling(
        self, options: ReplyOptions, index: int, constraint: Pieces | None, *, temperature: float | None = None
    ) -> Sampling:
        from emollama.runtime import Sampling as Chosen

        return Chosen(
            max_tokens=self._longest(options),
            temperature=options.temperature if temperature is None else temperature,
            top_p=options.top_p,
            seed=None if options.seed is None else options.seed + index,
            stop_ids=(self._renderer.stop_id,),
            constraint=constraint,
            num_logprobs=options.top_logprobs,
        )

    def _chance(self, event: Any, text: ReplyText) -> TokenChance:
        likely = tuple((text.of(token), p) for token, p in event.top if p > float("-inf"))
        return TokenChance(text=text.of(event.token_id), logprob=event.logprob, top=likely)

    def _nothing(self, asked: Asked, options: ReplyOptions, index: int) -> Iterator[Said]:
        """There is no prefix to decode from, and one thing to say."""
        document = NOTHING_TO_JUDGE if asked.pieces is None else first_document(asked.pieces)
        if asked.pieces is None and options.form.kind == "json_object":
            document = json.dumps({"emotion": None, "used": [], "absent": ["face", "voice", "words"]})
        ids = self._renderer.encode(document)
        text = self._text(asked, options)
        for count, token in enumerate(ids[: self._longest(options)], 1):
            yield Said(index=index, text=text.add(token), num_tokens=1)
            if text.is_stopped or count == len(ids):
                break
        is_cut = not text.is_stopped and len(ids) > self._longest(options)
        yield Said(index=index, text=text.rest(), finish="length" if is_cut else "stop")

    def _free(
        self, asked: Asked, options: ReplyOptions, index: int, cancelled: Callable[[], bool] | None
    ) -> Iterator[Said]:
        """Write freely, check, try again, and fall back on the readings' own sentences."""
        cues = asked.reading.seen.cues
        assert cues is not None
        renderer = self._renderer
        allowed = {renderer.token_id(slot) for slot in Slots.of(cues).values} | {renderer.stop_id}
        problems: list[str] = []
        for temperature, seed in ((options.temperature, options.seed), *_RETRIES):
            chosen = dataclasses.replace(options, seed=seed)
            sampling = self._sampling(chosen, index, None, temperature=temperature)
            sampling = dataclasses.replace(sampling, banned=frozenset(self._markers - allowed))
            pieces = list(self._stream(asked, sampling, self._text(asked, options), options, index, cancelled))
            text = "".join(piece.text for piece in pieces)
            found = ev.check_rationale(text, cues, must_state=False)
            if not found:
                yield from pieces
                return
            problems = problems or found
        text = ev.plain_rationale(cues)
        yield Said(
            index=index, text=text, num_tokens=len(renderer.encode(text)), finish="stop",
            warnings=(f"The decoded answer made a claim that no reading supports ({' '.join(problems)}) "
                      "so it was replaced by sentences made from the readings.",),
        )  # fmt: skip

    # ---- JSON -----------------------------------------------------------------------------------------------------

    def _pieces(self, reading: Reading, form: AnswerForm) -> tuple[Piece, ...] | None:
        if form.kind != "json_schema":
            return None
        seen = reading.seen
        pieces = tuple(
            pieces_of(
                form.schema,
                Facts(
                    cues=seen.cues,
                    emotion=seen.emotion,
                    affect=seen.affect,
                    evidence=[item for items in seen.evidence.values() for item in items],
                    transcript=None if seen.transcript is None else seen.transcript.text,
                    seconds=seen.clip.seconds,
                    judge=lambda names: self._judge(seen, names),
                ),
            )
        )
        longest = sum(max(len(self._renderer.encode(text)) for text in piece) for piece in pieces)
        if longest > MAX_JSON_TOKENS:
            raise InputError(
                f"the document may have {longest} tokens; allowed: {MAX_JSON_TOKENS}; ask for fewer properties",
                field="response_format.json_schema.schema",
            )
        return pieces

    def _judge(self, seen: Understanding, names: tuple[str, ...]) -> Mapping[str, float]:
        """Judge the clip over somebody's own labels; its tokens are kept, so no encoder runs."""
        used: dict[Any, Any] = dict(seen.features)
        if seen.transcript is not None:
            used["words"] = seen.transcript.text
        return self.analyzer.judge(used, parse_label_set(names)).emotion.scores


def conversation_of(analyzer: Analyzer) -> Conversation:
    """Return the one conversation of an analyzer, which lives as long as it."""
    with _MAKING:
        found = analyzer.attachments.get(Conversation)
        if found is None:
            found = analyzer.attachments[Conversation] = Conversation(analyzer)
        return found


_MAKING = threading.Lock()


class Pieces:
    """A constraint for one reply: one sequence of each piece after the other, then ``end``; whichever fit so far."""

    def __init__(self, pieces: Sequence[Sequence[Sequence[int]]], *, end: int) -> None:
        self._tries: list[dict[int, Any]] = []
        for piece in pieces:
            trie: dict[int, Any] = {}
            for sequence in piece:
                node = trie
                for token in sequence:
                    node = node.setdefault(int(token), {})
                node[_WHOLE] = {}
            self._tries.append(trie)
        self._tries.append({end: {_WHOLE: {}}})
        self._ids: list[int] = []
        self._states = self._closed([(0, self._tries[0])])

    def __call__(self, token_ids: Sequence[int]) -> Sequence[int]:
        if list(token_ids[: len(self._ids)]) != self._ids:
            self._ids, self._states = [], self._closed([(0, self._tries[0])])
        for token in token_ids[len(self._ids) :]:
            self._states = self._closed([(at, node[token]) for at, node in self._states if token in node])
            self._ids.append(token)
        return sorted({token for _, node in self._states for token in node if token != _WHOLE})

    def _closed(self, states: list[tuple[int, dict[int, Any]]]) -> list[tuple[int, dict[int, Any]]]:
        """Add where a state may go without a token: from the end of a piece to the next."""
        found = list(states)
        for at, node in found:
            if _WHOLE in node and at + 1 < len(self._tries):
                found.append((at + 1, self._tries[at + 1]))
        return found


_WHOLE = -1  # marks, in a trie, that a sequence may end here
