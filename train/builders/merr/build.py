"""The run: every sample from its clip to its two texts, some at once, each saved when a step of it is done.

A sample goes through reading, matching and describing (saved as ``observed``), then explaining (saved as ``done``). A
sample that is dropped is saved with its reason; one that failed for a reason outside itself, an endpoint that did not
answer or a file that was not there, is tried again by the next run. Stopping loses only what is in flight.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import UTC, datetime
from random import Random
from typing import TYPE_CHECKING, Any

from emollama._version import __version__
from emollama.endpoint import ChatEndpoint, EndpointError, EndpointUnusableError, Stop, StoppedError
from emollama.errors import DatasetError, InputError, MediaError
from emollama.manifest import Sample
from train.builders.merr import prompts
from train.builders.merr.checks import explanation_problems, objective_problems, tidy
from train.builders.merr.description import coarse, course, generator, tone, visual_expression
from train.builders.merr.matching import match
from train.builders.merr.reader import ClipReader, NothingToJudgeError
from train.builders.merr.rules import RulesFile
from train.builders.merr.state import BuildConfig, Record, RunFolder, row_sha256
from train.builders.merr.writers import Assignment, Draft, Writer

if TYPE_CHECKING:
    from emollama.analyze import Understanding

MOST_FAILURES_IN_A_ROW = 10
MOST_READ_AT_ONCE = 2
_FINAL = ("done", "dropped")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended: how many samples it took up, and whether it was interrupted."""

    taken_up: int
    interrupted: bool


class Builder:
    """Builds the samples of one manifest in one run folder."""

    def __init__(
        self,
        config: BuildConfig,
        *,
        run: RunFolder,
        rules: RulesFile,
        reader: ClipReader,
        writer: Writer,
        describer: ChatEndpoint | None = None,
        stop: Stop | None = None,
        concurrency: int = 2,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        if not 1 <= concurrency <= 256:
            raise InputError(f"concurrency is {concurrency}; allowed: 1 to 256", field="concurrency")
        if config.describe and describer is None:
            raise InputError("describe is set, but there is no endpoint to ask", field="describe")
        self.config, self.folder, self.rules = config, run, rules
        self._reader, self._writer, self._describer = reader, writer, describer
        self._stop, self._concurrency, self._now = stop or Stop(), concurrency, now
        self._failures, self._lock = 0, threading.Lock()
        # many samples may wait for an endpoint, but decoded clips are large
        self._reading = threading.Semaphore(MOST_READ_AT_ONCE)

    def remaining(self, samples: Sequence[Sample]) -> list[Sample]:
        """Return the samples that are neither done nor dropped yet."""
        left = []
        for sample in samples:
            record = self.folder.load(sample)
            if record is None or record.stage not in _FINAL:
                left.append(sample)
        return left

    def run(self, samples: Sequence[Sample], *, on_record: Callable[[Record], None] = lambda record: None) -> Outcome:
        """Build the samples. When the run is asked to stop, what is in flight ends; the next run goes on from there.

        Raises `EndpointUnusableError` when the endpoint cannot be used at all, after what is in flight has ended.
        """
        waiting: Iterator[Sample] = iter(samples)
        pending: set[Future[Record | None]] = set()
        taken, interrupted, fatal = 0, False, None
        with ThreadPoolExecutor(self._concurrency, thread_name_prefix="build") as pool:
            try:
                while not (interrupted := self._stop.is_set()):
                    while len(pending) < 2 * self._concurrency and (sample := next(waiting, None)) is not None:
                        pending.add(pool.submit(self.build, sample))
                    if not pending:
                        break
                    finished, pending = wait(pending, return_when=FIRST_COMPLETED)
                    for future in finished:
                        record = future.result()
                        if record is not None:
                            taken += 1
                            on_record(record)
            except KeyboardInterrupt:
                interrupted = True
            except EndpointUnusableError as error:
                fatal = error
            finally:
                self._stop.set()
                for future in pending:
                    future.cancel()
        if fatal is not None:
            raise fatal
        for future in pending:  # what was in flight has ended by now
            if not future.cancelled() and future.result() is not None:
                taken += 1
        return Outcome(taken_up=taken, interrupted=interrupted)

    def build(self, sample: Sample) -> Record | None:
        """Take one sample as far as it goes and save it; ``None`` when the run was stopped before."""
        if self._stop.is_set():
            return None
        try:
            record = self._build(sample)
        except StoppedError:
            return None
        except EndpointUnusableError:
            self._stop.set()
            raise
        except EndpointError as error:
            record = self._failed(sample, "endpoint", str(error))
            self.folder.save(record)
            with self._lock:
                self._failures += 1
                if self._failures >= MOST_FAILURES_IN_A_ROW:
                    self._stop.set()
                    raise EndpointUnusableError(
                        f"{self._failures} samples in a row got no answer; the last: {error}", field="base_url"
                    ) from error
            return record
        if record.stage == "done":
            with self._lock:
                self._failures = 0
        self.folder.save(record)
        return record

    def _failed(self, sample: Sample, code: str, reason: str) -> Record:
        """Return the sample's record as failed, with what was already known of it."""
        record = self.folder.load(sample) or Record(id=sample.id, row_sha256=row_sha256(sample), stage="failed")
        record.stage, record.code, record.reason = "failed", code, reason
        return record

    def _build(self, sample: Sample) -> Record:
        record = self.folder.load(sample)
        seen: Understanding | None = None
        if record is None or record.observation is None:
            record = Record(id=sample.id, row_sha256=row_sha256(sample), stage="observed")
            try:
                with self._reading:
                    read = self._reader.read(sample)
            except NothingToJudgeError as error:
                return self._dropped(record, "nothing_to_judge", str(error))
            except (MediaError, DatasetError, InputError) as error:
                return self._failed(sample, "unreadable", str(error))
            seen = read.understanding if self._writer.wants_clips else None
            record.observation = read.observation
            if read.picture is not None:
                record.picture = self.folder.save_picture(sample.id, read.picture)
            self._note_readings(record)
            self.folder.save(record)
        record.stage, record.code, record.reason, record.rejected = "observed", None, None, []
        verdict = match(record.observation, self.rules.rules, self.config.match)
        record.match = {"kept": verdict.kept, "code": verdict.code, "reason": verdict.reason}
        if not verdict.kept:
            return self._dropped(record, verdict.code, verdict.reason)
        facts = self._describe(record)
        held = seen

        def understand() -> Understanding:
            nonlocal held
            held = held or self._reader.understand(sample)
            return held

        assert record.observation is not None
        assignment = Assignment(
            sample_id=sample.id,
            observation=record.observation,
            facts=facts,
            questions=_shuffled(
                prompts.fine_questions(record.observation.present),
                generator(self.config.seed, record.id, "fine question"),
            ),
            movements=self._movements(record),
            prompt=prompts.explain(record.observation, facts),
            understand=understand,
        )
        return self._explain(record, assignment)

    # ---- the steps -----------------------------------------------------------------------------------------------

    def _describe(self, record: Record) -> tuple[str, ...]:
        """Write the phrases and the coarse description into the record and return the facts as lines."""
        seen, rules, seed = record.observation, self.rules.rules, self.config.seed
        assert seen is not None
        objective = self._objective(record) if self.config.describe else None
        face = visual_expression(seen, rules, generator(seed, record.id, "face"))
        elsewhere = course(seen, rules, generator(seed, record.id, "course"))
        voice = tone(seen, rules, generator(seed, record.id, "tone"))
        pieces = {"visual_expression": face, "face_elsewhere": elsewhere, "tone": voice}
        record.fields = {} if objective is None else {"visual_objective": objective}
        for name, piece in pieces.items():
            if piece is not None:
                record.fields[name] = piece.text
                record.provenance[name] = self._by_rules(rule=piece.by, of=list(piece.of))
        parts = [*record.fields, *(["transcript"] if seen.transcript else [])]
        record.fields["coarse"] = coarse(
            seen,
            objective=objective,
            expression=face,
            course=elsewhere,
            tone=voice,
            rng=generator(seed, record.id, "coarse"),
        )
        record.fields["coarse_question"] = generator(seed, record.id, "coarse question").choice(
            prompts.coarse_questions(seen.present)
        )
        record.provenance["coarse"] = self._by_rules(rule="description.coarse", of=parts)
        return prompts.facts(
            seen,
            objective=objective,
            expression=None if face is None else face.text,
            course=None if elsewhere is None else elsewhere.text,
            tone=None if voice is None else voice.text,
        )

    def _objective(self, record: Record) -> str | None:
        """Ask the endpoint what is visible in the peak frame; without a draft that passes, the part is left out."""
        picture = self.folder.picture(record)
        if picture is None:
            return None
        assert self._describer is not None
        prompt = prompts.describe(picture)
        problems: list[str] = []
        for attempt in range(self.config.attempts):
            done = self._describer.complete(prompt, seed=attempt)
            text = tidy(done.text).rstrip(" .")
            text = text[:1].lower() + text[1:]
            problems = objective_problems(text, self.rules)
            if not problems:
                record.provenance["visual_objective"] = {
                    "by": "endpoint",
                    "url": self._describer.options.url,
                    "model": done.model or self._describer.options.model,
                    "prompt_sha256": prompt.sha256,
                    "request_sha256": done.request_sha256,
                    "cached": done.cached,
                    "time": done.created,
                }
                return text
            record.rejected.append({"field": "visual_objective", "text": text, "problems": problems})
        record.provenance["visual_objective"] = {"by": "endpoint", "left_out": problems, "time": self._time()}
        return None

    def _explain(self, record: Record, assignment: Assignment) -> Record:
        """Have the explanation written; without a draft that passes, the sample keeps its description alone."""
        problems: list[str] = []
        record.stage = "done"
        record.fields["fine_question"] = assignment.question(0)
        for attempt in range(self.config.attempts):
            draft: Draft = self._writer.write(assignment, attempt=attempt)
            if draft.refusal is not None:
                record.code, record.reason = "explanation_refused", draft.refusal
                return record
            text = tidy(draft.text)
            problems = explanation_problems(text, assignment.observation, self.rules)
            if not draft.complete:
                problems.append("It was cut off before its end.")
            if not problems:
                record.fields["fine"] = text
                record.fields["fine_question"] = draft.question or assignment.question(attempt)
                record.provenance["fine"] = {"attempt": attempt + 1, "time": self._time(), **draft.by}
                return record
            record.rejected.append({"field": "fine", "attempt": attempt + 1, "text": text, "problems": problems})
        record.code = "explanation_rejected"
        record.reason = f"none of {self.config.attempts} drafts passed; the last: {' '.join(problems)}"
        return record

    def _movements(self, record: Record) -> tuple[str, ...]:
        """Return sentences about the two strongest action units at the peak, and about the strongest alone."""
        seen = record.observation
        if seen is None or not seen.units or seen.peak is None or not seen.peak.reached:
            return ()
        pieces = []
        for most in (2, 1):
            rng = generator(self.config.seed, record.id, "face")  # the words of the description
            piece = visual_expression(seen, self.rules.rules, rng, most=most)
            if piece is not None and piece.of:
                pieces.append(f"At {seen.peak.time:.1f} s {piece.text}.")
        return tuple(dict.fromkeys(pieces))

    # ---- provenance ----------------------------------------------------------------------------------------------

    def _dropped(self, record: Record, code: str, reason: str) -> Record:
        record.stage, record.code, record.reason = "dropped", code, reason
        return record

    def _note_readings(self, record: Record) -> None:
        seen = record.observation
        assert seen is not None
        model = {"model": seen.model, "emollama": __version__, "time": self._time()}
        label = {"by": seen.label_source, "confidence": seen.label_confidence}
        record.provenance["label"] = {**label, **(model if seen.label_source == "pseudo" else {})}
        if seen.peak is not None:
            units = {"source": seen.units_source, "sha256": seen.units_sha256} if seen.units else {}
            record.provenance["peak"] = {"by": seen.peak.basis, "what": seen.peak.what, **model, **units}
        if seen.face is not None:
            record.provenance["face"] = {"by": "face model", **model}
        if seen.voice is not None:
            record.provenance["voice"] = {"by": "prosody and voice head", **model}
        if seen.transcript is not None:
            asr = {} if seen.transcript_source == "given" else {"recogniser": self.config.asr, **model}
            record.provenance["transcript"] = {"by": seen.transcript_source, **asr}
        record.provenance["clip"] = {"sha256": seen.clip_sha256}

    def _by_rules(self, *, rule: str, of: list[str]) -> dict[str, Any]:
        return {
            "by": "rules",
            "rule": rule,
            "of": of,
            "rules_version": self.rules.rules.rules_version,
            "rules_sha256": self.rules.sha256,
            "seed": self.config.seed,
            "time": self._time(),
        }

    def _time(self) -> str:
        return self._now().isoformat(timespec="seconds")


def _shuffled(items: Sequence[str], rng: Random) -> tuple[str, ...]:
    return tuple(rng.sample(items, len(items)))
