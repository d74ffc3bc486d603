"""The question that a large preset answers about a clip: which of these labels, from all there is and from each alone.

A label's score is the summed log-likelihood of its whole answer, end token included, after the question that holds the
set. Over a closed set that is the model's own distribution, given that it answers by one of them: it needs no division
by length (which would favour long labels) and no walk from token to token (which weighs what two labels share twice).
It is also what the validation during training measures, so its figures hold for what is served.

All rows (everything, and each modality by itself) are one prefill; the answers branch off it. What one modality says by
itself is asked over the model's own set, so that cues speak the same words whatever set a caller names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

import numpy as np

from emollama import evidence as ev
from emollama.calibration import Calibration
from emollama.judge import Judgement
from emollama.labels import CIRCUMPLEX, NANO_LABELS, canonical
from emollama.parse import parse_open_words
from emollama.parts import Engine, PromptRow, Query
from emollama.preset_renderer import PresetRenderer
from emollama.prompt import SOURCES, Source
from emollama.types import Emotion
from emollama.watch import Check, unwatched

_MAX_OPEN_TOKENS = 32


class PresetJudge:
    """Asks an engine and calibrates its answers.

    ``used`` maps streams to their tokens [T, D] and "words" to the words. ``sources`` says to which modality a stream
    belongs, ``counts_of`` how many tokens of the prompt its tokens fill, ``labels`` is the model's own set.
    """

    def __init__(
        self,
        renderer: PresetRenderer,
        engine: Engine,
        calibration: Calibration,
        *,
        sources: Mapping[str, Source],
        queries: Mapping[str, int | None],
        labels: Sequence[str],
    ) -> None:
        self.renderer, self.engine, self.calibration = renderer, engine, calibration
        self.sources, self.labels = dict(sources), tuple(labels)
        self._queries = dict(queries)

    def judge(self, used: Mapping[str, Any], asked: tuple[str, ...]) -> Judgement:
        """Prefill everything and each modality alone in one batch, and score the labels off it."""
        present = tuple(source for source in SOURCES if any(self.source_of(name) == source for name in used))
        subsets: list[tuple[Source, ...]] = [present]
        if len(present) > 1:
            subsets += [(source,) for source in present]
        prefix, answer = self._ask(used, subsets, asked)
        answer[0] = self.calibration.pool(answer[0], answer[1:])
        singles = subsets[1:] or subsets
        support = {subset[0]: row for subset, row in zip(singles, answer[1:] or answer, strict=True)}
        alone = support if asked == self.labels else dict(
            zip((s[0] for s in singles), self._ask(used, singles, self.labels)[1], strict=True)
        )  # fmt: skip
        names = tuple(_known(name) for name in self.labels)
        best = int(answer[0].argmax())
        confidence = float(answer[0][best])
        native = {
            canonical(name): float(p) for name, p in zip(asked, answer[0], strict=True) if canonical(name) in CIRCUMPLEX
        }
        total = sum(native.values())
        return Judgement(
            prefix=prefix,
            emotion=Emotion(
                label=asked[best],
                confidence=confidence,
                abstained=self.calibration.abstains(confidence, num_labels=len(asked)),
                scores={name: float(p) for name, p in zip(asked, answer[0], strict=True)},
            ),
            native={name: p / total for name, p in native.items()} if total > 0 else {},
            words_label=names[int(alone["words"].argmax())] if "words" in alone else None,
            support={source: float(row[best]) for source, row in support.items()},
            open_vocabulary=(),
            affect=None,
            alone={
                source: {name: float(p) for name, p in zip(names, row, strict=True)} for source, row in alone.items()
            },
        )

    def quote(self, text: str, label: str | None) -> ev.Quote | None:
        """Find the words that carry what the words alone point to."""
        assert label is not None
        column = [_known(name) for name in self.labels].index(label)
        query = self._query(self.labels)

        def score(texts: Sequence[str]) -> np.ndarray:
            rows = [self._row({"words": variant}, ("words",), self.labels) for variant in texts]
            (table,) = self.engine.score(self.engine.prefill(rows), [query])
            return table[:, column] - np.logaddexp.reduce(table, axis=1)

        return ev.find_quote(text, score)

    def open_words(self, used: Mapping[str, Any], judged: Judgement, *, check: Check = unwatched) -> tuple[str, ...]:
        """Ask for a few words of the model's own; what comes and is no list of words is left out.

        A prompt of its own, since training asks for them alone; ``check`` is asked before every token.
        """
        renderer = self.renderer
        features = {name: tokens for name, tokens in used.items() if name != "words"}
        ids = renderer.open_prompt(counts=self._counts(features), transcript=used.get("words"))
        check()
        prefix = self.engine.prefill([PromptRow(ids=ids[:-1], features=features)])
        tokens: list[int] = []
        writing = self.engine.generate(
            prefix, ids[-1:], stop_id=renderer.stop_id, max_new_tokens=_MAX_OPEN_TOKENS, temperature=0.0, seed=0,
            banned=frozenset(),
        )  # fmt: skip
        with closing(writing):
            for token in writing:
                check()
                tokens.append(token)
        if len(tokens) == _MAX_OPEN_TOKENS:  # it was cut, and its last word may be half of one
            return ()
        return parse_open_words(renderer.chat.decode(tokens))

    def source_of(self, name: str) -> Source:
        """Return the modality of a stream, or of the words."""
        return "words" if name == "words" else self.sources[name]

    def _ask(
        self, used: Mapping[str, Any], subsets: Sequence[tuple[Source, ...]], labels: tuple[str, ...]
    ) -> tuple[Any, list[np.ndarray]]:
        """Return the computed rows of some subsets, and the calibrated probabilities of the labels in each."""
        prefix = self.engine.prefill([self._row(used, subset, labels) for subset in subsets])
        (table,) = self.engine.score(prefix, [self._query(labels)])
        probabilities = [
            self.calibration.probabilities(row, labels=labels, present=subset)
            for row, subset in zip(table, subsets, strict=True)
        ]
        return prefix, probabilities

    def _query(self, labels: Sequence[str]) -> Query:
        return Query(marker=[self.renderer.marker_id], options=self.renderer.label_ids(labels))

    def _row(self, used: Mapping[str, Any], subset: Sequence[Source], labels: Sequence[str]) -> PromptRow:
        features = {name: tokens for name, tokens in used.items() if name != "words" and self.source_of(name) in subset}
        words = used["words"] if "words" in subset else None
        ids = self.renderer.prefix(labels, counts=self._counts(features), transcript=words)
        return PromptRow(ids=ids, features=features)

    def _counts(self, features: Mapping[str, Any]) -> dict[str, int]:
        return {name: self._queries[name] or len(tokens) for name, tokens in features.items()}


def _known(name: str) -> str:
    """Return nano's noun for a label that means one of its emotions, so that cues and checks speak of the same."""
    return canonical(name) if canonical(name) in NANO_LABELS else name
