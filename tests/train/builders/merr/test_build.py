import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from emollama.endpoint import AnswerCache, ChatEndpoint, EndpointOptions, EndpointUnusableError, Stop
from emollama.errors import DatasetError, InputError, UndecodableMediaError, UnknownNameError
from emollama.manifest import Manifest, Sample, read_manifest
from train.builders.merr.build import MOST_FAILURES_IN_A_ROW, Builder
from train.builders.merr.export import export
from train.builders.merr.observation import Observation
from train.builders.merr.reader import NothingToJudgeError
from train.builders.merr.rules import RulesFile
from train.builders.merr.session import stop_on_signals
from train.builders.merr.state import BuildConfig, RunFolder
from train.builders.merr.writers import Assignment, CallableWriter, EndpointWriter, load_callable

Seen = Callable[..., Observation]


class FakeReader:
    """Gives observations by the sample's id, or raises what stands there; counts what was read."""

    def __init__(self, clips: dict[str, Observation | Exception]) -> None:
        self.clips, self.read_ids = clips, []

    def read(self, sample: Sample) -> Any:
        self.read_ids.append(sample.id)
        found = self.clips[sample.id]
        if isinstance(found, Exception):
            raise found
        return SimpleNamespace(observation=found, understanding=object(), picture=b"\xff\xd8 jpeg")

    def understand(self, sample: Sample) -> Any:
        return object()


class Run:
    """A manifest of samples a, b, c..., a run folder, and a builder made anew for every start."""

    def __init__(self, folder: Path, rules: RulesFile, clips: dict[str, Observation | Exception]) -> None:
        self.samples = tuple(
            Sample(id=name, clip=f"{name}.mp4", label=getattr(clip, "label", None), split="train")
            for name, clip in clips.items()
        )
        self.manifest = Manifest(path=folder / "m.jsonl", samples=self.samples)
        self.folder, self.rules, self.reader = RunFolder(folder / "m.build"), rules, FakeReader(clips)

    def start(self, writer: Any, *, config: BuildConfig | None = None, **options: Any) -> Any:
        options.setdefault("concurrency", 1)
        builder = Builder(
            config or BuildConfig(), run=self.folder, rules=self.rules, reader=self.reader, writer=writer, **options
        )
        self.outcome = builder.run(builder.remaining(self.samples))
        return export(self.manifest, self.folder)

    def rows(self, name: str) -> list[Sample]:
        return list(read_manifest(self.folder.path.parent / f"m.{name}.jsonl").samples)

    def dropped(self) -> dict[str, dict[str, Any]]:
        lines = (self.folder.path / "dropped.jsonl").read_text().splitlines()
        return {row["id"]: row for row in map(json.loads, lines)}


@pytest.fixture
def run(tmp_path: Path, rules: RulesFile) -> Callable[[dict[str, Any]], Run]:
    return lambda clips: Run(tmp_path, rules, clips)


def says(text: str) -> CallableWriter:
    return CallableWriter(lambda assignment, attempt: text.replace("{id}", assignment.sample_id), name="fixed")


def endpoint_writer(run: Run, url: str, **options: Any) -> EndpointWriter:
    chat = ChatEndpoint(
        EndpointOptions(base_url=url, model="m", first_pause_seconds=0.0, max_tries=2, **options),
        cache=AnswerCache(run.folder.cache), key="",
    )  # fmt: skip
    return EndpointWriter(chat)


def test_from_clips_to_manifests(run: Any, seen: Seen, good: str) -> None:
    own = run({"a": seen(), "b": seen(label="angry", face="sadness"), "c": seen(source="pseudo", confidence=0.3)})
    done = own.start(says(good))
    assert (done.kept, done.explained, done.dropped, done.failed, done.not_yet) == (1, 1, 2, 0, 0)
    coarse, fine = own.rows("instructions")
    assert (coarse.id, fine.id) == ("a.coarse", "a.fine")
    assert own.rows("coarse") == [coarse]
    assert own.rows("fine") == [fine]
    assert (fine.clip, fine.label, fine.split) == ("a.mp4", "sad", "train")
    assert fine.meta == {"source_id": "a", "grain": "fine", "label_source": "manifest", "label_confidence": 1.0}
    assert fine.messages is not None
    assert [message.role for message in fine.messages] == ["user", "assistant"]
    assert fine.messages[1].content == good
    assert coarse.messages is not None
    assert "1.2 s" in coarse.messages[1].content
    dropped = own.dropped()
    assert (dropped["b"]["code"], dropped["c"]["code"]) == ("expression_differs", "pseudo_label_unsure")
    assert all(row["reason"] and row["lost"] == ["coarse", "fine"] for row in dropped.values())


def test_provenance_says_what_made_every_field(run: Any, seen: Seen, good: str) -> None:
    own = run({"a": seen(voice="sadness")})
    text = good.replace("no voice to listen to and no words to read", "no words to read").replace("face alone", "face")
    own.start(says(text))
    (line,) = (own.folder.path / "provenance.jsonl").read_text().splitlines()
    fields = json.loads(line)["fields"]
    assert set(fields) == {"label", "peak", "face", "voice", "clip", "visual_expression", "tone", "coarse", "fine"}
    assert fields["label"] == {"by": "manifest", "confidence": 1.0}
    assert (fields["peak"]["by"], fields["peak"]["model"]) == ("expression", "nano")
    assert fields["tone"]["of"] == ["pitch low", "loudness low", "rate low", "melody low"]
    assert fields["tone"]["rules_sha256"] == own.rules.sha256
    assert (fields["fine"]["writer"], fields["fine"]["attempt"]) == ("fixed", 1)
    assert len(fields["fine"]["prompt_sha256"]) == 64
    assert all(fields[name]["time"] for name in ("peak", "tone", "coarse", "fine"))


def test_a_rejected_draft_is_tried_with_another_seed(
    run: Any, seen: Seen, good: str, endpoint: Any, completion: Any
) -> None:
    contradiction = good.replace("appears sad", "appears happy")
    endpoint.reply = lambda body, n: (200, {}, completion(good if body["seed"] == 2 else contradiction))
    own = run({"a": seen()})
    assert own.start(endpoint_writer(own, endpoint.url)).explained == 1
    assert [body["seed"] for body in endpoint.bodies] == [0, 1, 2]
    record = own.folder.load_id("a")
    assert record.provenance["fine"]["attempt"] == 3
    assert [r["attempt"] for r in record.rejected] == [1, 2]
    assert "appears happy, not sad" in record.rejected[0]["problems"][0]


def test_without_a_good_draft_the_description_stays(
    run: Any, seen: Seen, good: str, endpoint: Any, completion: Any
) -> None:
    cut = completion(good)
    cut["choices"][0]["finish_reason"] = "length"
    own = run({"a": seen(), "b": seen()})
    endpoint.reply = lambda body, n: (200, {}, cut)
    done = own.start(endpoint_writer(own, endpoint.url), config=BuildConfig(attempts=2))
    assert (done.kept, done.explained) == (2, 0)
    assert [row.id for row in own.rows("instructions")] == ["a.coarse", "b.coarse"]
    row = own.dropped()["a"]
    assert (row["lost"], row["code"], row["again"]) == (["fine"], "explanation_rejected", False)
    assert "It was cut off before its end." in row["reason"]
    assert len(row["rejected"]) == 2


def test_words_that_repeat_are_kept_once(run: Any, seen: Seen, good: str) -> None:
    own = run({"a": seen(), "b": seen()})
    done = own.start(says(good))
    assert (done.kept, done.explained) == (2, 1)
    assert own.dropped()["b"]["reason"] == "its explanation is word for word that of a"


def test_an_endpoint_that_fails_is_asked_again_by_the_next_run(
    run: Any, seen: Seen, good: str, endpoint: Any, completion: Any
) -> None:
    own = run({"a": seen(), "b": seen()})
    endpoint.reply = lambda body, n: (500, {}, "down")
    done = own.start(endpoint_writer(own, endpoint.url))
    assert (done.kept, done.failed) == (0, 2)
    assert own.dropped()["a"]["again"] is True
    assert len(endpoint.bodies) == 4
    endpoint.reply = lambda body, n: (200, {}, completion(good))
    done = own.start(endpoint_writer(own, endpoint.url))
    assert (done.kept, done.failed) == (2, 0)
    assert own.reader.read_ids == ["a", "b"]  # what was observed is not read again


def test_a_useless_endpoint_stops_the_run_at_once(run: Any, seen: Seen, endpoint: Any) -> None:
    own = run({str(n): seen() for n in range(30)})
    endpoint.reply = lambda body, n: (401, {}, "who are you")
    with pytest.raises(EndpointUnusableError, match="status 401"):
        own.start(endpoint_writer(own, endpoint.url), concurrency=4)
    assert len(endpoint.bodies) <= 8  # one for each thread, and one more that was taken up meanwhile


def test_failures_in_a_row_stop_the_run(run: Any, seen: Seen, endpoint: Any) -> None:
    own = run({str(n): seen() for n in range(MOST_FAILURES_IN_A_ROW + 20)})
    endpoint.reply = lambda body, n: (400, {}, "no")
    with pytest.raises(EndpointUnusableError, match=f"{MOST_FAILURES_IN_A_ROW} samples in a row got no answer"):
        own.start(endpoint_writer(own, endpoint.url), concurrency=1)
    assert len(endpoint.bodies) <= MOST_FAILURES_IN_A_ROW + 2


def test_clips_that_cannot_be_used_are_listed(run: Any, seen: Seen, good: str) -> None:
    own = run({"a": UndecodableMediaError("nothing in it"), "b": NothingToJudgeError("b: nothing"), "c": seen()})
    done = own.start(says(good))
    assert (done.kept, done.dropped, done.failed) == (1, 1, 1)
    assert [(r["code"], r["again"]) for r in own.dropped().values()] == [
        ("unreadable", True), ("nothing_to_judge", False),
    ]  # fmt: skip
    own.start(says(good))
    assert own.reader.read_ids == ["a", "b", "c", "a"]


def test_a_finished_run_asks_and_reads_nothing(run: Any, seen: Seen, good: str, endpoint: Any, completion: Any) -> None:
    endpoint.reply = lambda body, n: (200, {}, completion(good))
    own = run({"a": seen()})
    own.start(endpoint_writer(own, endpoint.url))
    before = (own.folder.path.parent / "m.instructions.jsonl").read_bytes()
    own.start(endpoint_writer(own, endpoint.url))
    assert (len(endpoint.bodies), own.reader.read_ids) == (1, ["a"])
    assert (own.folder.path.parent / "m.instructions.jsonl").read_bytes() == before


def test_a_changed_row_is_done_anew(run: Any, seen: Seen, good: str) -> None:
    own = run({"a": seen(), "b": seen()})
    own.start(says(good))
    own.samples = (own.samples[0], own.samples[1].model_copy(update={"speaker": "s1"}))
    own.start(says(good))
    assert own.reader.read_ids == ["a", "b", "b"]


def test_a_damaged_record_is_done_anew(run: Any, seen: Seen, good: str) -> None:
    own = run({"a": seen()})
    own.start(says(good))
    (file,) = (own.folder.path / "samples").rglob("*.json")
    file.write_text(file.read_text()[:100])
    assert own.start(says(good)).kept == 1
    assert own.reader.read_ids == ["a", "a"]


def test_ctrl_c_lets_what_is_in_flight_end(run: Any, seen: Seen, good: str) -> None:
    own = run({str(n): seen() for n in range(40)})
    started = threading.Event()

    def write(assignment: Assignment, attempt: int) -> str:
        if not started.is_set():
            started.set()
            os.kill(os.getpid(), signal.SIGINT)  # arrives in the main thread
        time.sleep(0.01)
        return good.replace("its clearest moment", f"its clearest moment in {assignment.sample_id}")

    stop = Stop()
    with stop_on_signals(stop):
        done = own.start(CallableWriter(write, name="w"), stop=stop, concurrency=2)
    assert own.outcome.interrupted
    assert 1 <= done.kept < 40
    assert done.not_yet == 40 - done.kept
    already = list(own.reader.read_ids)
    done = own.start(CallableWriter(write, name="w"))
    assert (done.kept, done.not_yet) == (40, 0)
    # nothing that was finished is read a second time
    assert len(own.reader.read_ids) == 40
    assert set(own.reader.read_ids[len(already) :]).isdisjoint(already)


def test_the_visible_part_is_asked_for_and_checked(
    run: Any, seen: Seen, good: str, endpoint: Any, completion: Any
) -> None:
    def reply(body: dict[str, Any], n: int) -> Any:
        if isinstance(body["messages"][1]["content"], str):
            return 200, {}, completion(good)
        return 200, {}, completion("A sad woman." if body["seed"] == 0 else "A person with one hand at the mouth.")

    endpoint.reply = reply
    own = run({"a": seen()})
    writer = endpoint_writer(own, endpoint.url)
    config = BuildConfig(writer="endpoint", describe=True, endpoint_url=endpoint.url, endpoint_model="m")
    own.start(writer, config=config, describer=writer.endpoint)
    record = own.folder.load_id("a")
    assert record.fields["visual_objective"] == "a person with one hand at the mouth"
    assert "a person with one hand at the mouth" in record.fields["coarse"]
    assert record.provenance["visual_objective"]["model"] == "fake-1"
    assert "Picture: a person with one hand at the mouth" in endpoint.bodies[-1]["messages"][1]["content"]
    assert "emotion 'sad'" in str(record.rejected[0]["problems"])


def test_a_picture_that_is_never_described_well_is_left_out(
    run: Any, seen: Seen, good: str, endpoint: Any, completion: Any
) -> None:
    endpoint.reply = lambda body, n: (
        (200, {}, completion(good if isinstance(body["messages"][1]["content"], str) else "A sad woman."))
    )  # fmt: skip
    own = run({"a": seen()})
    writer = endpoint_writer(own, endpoint.url)
    config = BuildConfig(writer="endpoint", describe=True, endpoint_url=endpoint.url, endpoint_model="m")
    assert own.start(writer, config=config, describer=writer.endpoint).explained == 1
    record = own.folder.load_id("a")
    assert "visual_objective" not in record.fields
    assert record.provenance["visual_objective"]["left_out"]


def test_other_settings_are_refused(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "r")
    folder.open(BuildConfig(seed=1))
    folder.open(BuildConfig(seed=1))
    with pytest.raises(InputError, match=r"other values of seed, attempts|other values of attempts, seed"):
        folder.open(BuildConfig(seed=2, attempts=5))
    with pytest.raises(DatasetError, match="holds no run"):
        RunFolder(tmp_path / "none").config()
    with pytest.raises(InputError, match="its URL or model is not given"):
        BuildConfig(writer="endpoint")


def test_two_processes_do_not_share_a_folder(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from train.builders.merr.state import RunFolder\n"
        "with RunFolder(Path(sys.argv[1])).locked(): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(InputError, match="another process works in"), RunFolder(tmp_path).locked():
            pass
        other.communicate("")
    with RunFolder(tmp_path).locked():
        pass


def test_a_function_of_ones_own_may_write() -> None:
    assert load_callable("os.path:basename").name == "os.path:basename"
    with pytest.raises(UnknownNameError, match="known: endpoint, nano"):
        load_callable("gpt")
    with pytest.raises(InputError, match="cannot be imported"):
        load_callable("os.path:nothing")
    with pytest.raises(InputError, match="not a function"):
        load_callable("os.path:sep")


def test_stop_is_seen_before_a_sample_is_taken_up(run: Any, seen: Seen, good: str) -> None:
    own = run({"a": seen()})
    stop = Stop()
    stop.set()
    done = own.start(says(good), stop=stop)
    assert (done.not_yet, own.reader.read_ids) == (1, [])
