"""The large presets at debug size: clips become examples, the loss falls, labels are scored, an adapter comes out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch

from emollama.adapter import AdapterInfo
from emollama.backbones.frozen import memory_report
from emollama.backbones.lora import base_of, read_adapter_config
from emollama.config import LORA_TARGETS, LoraSettings
from emollama.errors import CheckpointError, DatasetError, DependencyError, InputError
from emollama.manifest import Sample
from emollama.model import EmoLlama
from emollama.types import Audio, Clip, Frames
from train.clip_batch import collate
from train.clip_task import ClipOptions
from train.trainees import Example, Outcome, Reading, trainee_factory
from train.trainees.preset import PresetTrainee, read_dialogues, read_pairs

PRESETS = ("emollama-8b", "emotion-llama-7b")
LABELS = ("Sad", "happy", "bored to death")
LORA = LoraSettings(rank=4, alpha=8.0, dropout=0.0, targets=LORA_TARGETS)


def options(model: str, **changes: object) -> ClipOptions:
    return ClipOptions(model=model, debug=True, **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module", params=PRESETS)
def trainee(request: pytest.FixtureRequest) -> PresetTrainee:
    made = trainee_factory(request.param)(options(request.param), LABELS)
    assert isinstance(made, PresetTrainee)
    return made


def clip(*, with_picture: bool = True, with_sound: bool = True) -> Clip:
    rng = np.random.default_rng(0)
    frames = Frames(images=rng.integers(0, 256, (8, 60, 80, 3), np.uint8), times=np.arange(8) / 8.0, source_fps=8.0)
    audio = Audio(samples=np.sin(np.arange(16_000) / 10).astype(np.float32))
    return Clip(name="made", seconds=1.0, frames=frames if with_picture else None, audio=audio if with_sound else None)


def reading(trainee: PresetTrainee, *, seed: int = 0) -> Reading:
    """Tokens of every stream, as a clip with a face, a picture and a voice would give."""
    rng = np.random.default_rng(seed)
    counts = {"patches": 4, "voice": 30, "scene": 3}
    tokens = {s.name: rng.normal(size=(counts.get(s.name, 1), s.width)) for s in trainee.config.streams}
    return Reading(tokens={name: value.astype(np.float32) for name, value in tokens.items()}, seconds=1.0)


def sample(**known: object) -> Sample:
    return Sample(id="one", clip="one.mp4", **known)  # type: ignore[arg-type]


def texts(trainee: PresetTrainee, example: Example) -> tuple[str, str]:
    """An example as its question and its answer."""
    pairs = list(zip(example.ids, example.is_answer, strict=True))
    decode = trainee.renderer.decode
    return decode([t for t, learned in pairs if not learned]), decode([t for t, learned in pairs if learned])


def placeholders(trainee: PresetTrainee, example: Example) -> set[str]:
    return {name for name, token in trainee.renderer.placeholder_ids.items() if token in example.ids}


def test_a_clip_is_read_into_the_streams_it_has(trainee: PresetTrainee) -> None:
    read = trainee.read(clip())
    assert (
        set(read.tokens)
        >= {"emollama-8b": {"scene", "voice"}, "emotion-llama-7b": {"patches", "cls", "audio"}}[trainee.name]
    )
    assert trainee.present(sample(transcript="hi"), read) == ("scene", "voice", "words")
    silent = trainee.read(clip(with_sound=False))
    assert "voice" not in trainee.present(sample(), silent)
    assert trainee.present(sample(), trainee.read(Clip(name="none", seconds=0.0))) == ()


def test_a_label_is_asked_with_its_set_and_answered_as_it_is_written(trainee: PresetTrainee) -> None:
    read = reading(trainee)
    questions = set()
    for seed in range(40):
        (example,) = trainee.examples(
            sample(label="sad", transcript="I am so tired"), read,
            present=("scene", "face", "voice", "words"), rng=Random(seed), training=True,
        )  # fmt: skip
        question, answer = texts(trainee, example)
        assert answer == "Sad"
        assert ", ".join(LABELS) in question
        assert "I am so tired" in question
        assert placeholders(trainee, example) == set(read.tokens)
        questions.add(question)
    assert len(questions) >= 5
    assert all(("[emotion]" in question) == (trainee.name == "emotion-llama-7b") for question in questions)


def test_shares_are_drawn_in_proportion(trainee: PresetTrainee) -> None:
    rng = Random(0)
    given = sample(distribution={"Sad": 0.75, "happy": 0.25})
    drawn = [
        texts(trainee, trainee.examples(given, reading(trainee), present=("face",), rng=rng, training=True)[0])[1]
        for _ in range(400)
    ]
    assert 0.68 < drawn.count("Sad") / len(drawn) < 0.82
    assert set(drawn) == {"Sad", "happy"}


def test_a_modality_that_is_dropped_leaves_no_token_and_no_word(trainee: PresetTrainee) -> None:
    given = sample(label="happy", transcript="never mind")
    example = trainee.examples(given, reading(trainee), present=("face",), rng=Random(0), training=True)[0]
    streams = {"emollama-8b": {"face"}, "emotion-llama-7b": {"face", "temporal"}}[trainee.name]
    assert placeholders(trainee, example) == streams == set(example.features)
    assert "never mind" not in texts(trainee, example)[0]


def test_own_dialogues_are_learned_and_the_second_stage_learns_them_alone(trainee: PresetTrainee) -> None:
    turns = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "The Brows are down, Clearly."}]
    given = sample(label="happy", messages=turns)
    rng = Random(0)
    visits = [trainee.examples(given, reading(trainee), present=("voice",), rng=rng, training=True) for _ in range(40)]
    taught = [texts(trainee, example)[1] for (example,) in visits]
    assert set(taught) == {"happy", "The Brows are down, Clearly."}
    assert 10 < taught.count("happy") < 30
    second = PresetTrainee(options(trainee.name, task="reason"), LABELS)
    found = [
        second.examples(given, reading(trainee), present=("voice",), rng=Random(seed), training=True)
        for seed in range(20)
    ]
    assert {len(examples) for examples in found} == {1}
    assert {texts(second, examples[0])[1] for examples in found} == {"The Brows are down, Clearly."}
    assert len({texts(second, examples[0])[0] for examples in found}) >= 3
    with pytest.raises(InputError, match="needs messages"):
        second.examples(sample(label="happy"), reading(trainee), present=("voice",), rng=Random(0), training=True)


def test_open_words_and_numbers_are_short_answers_and_the_label_keeps_half_of_the_visits(
    trainee: PresetTrainee,
) -> None:
    rng = Random(0)
    given = sample(label="happy", open_vocabulary=("Relieved", "at ease"), valence=0.42, arousal=-0.1)
    visits = [trainee.examples(given, reading(trainee), present=("face",), rng=rng, training=True) for _ in range(60)]
    taught = [texts(trainee, example)[1] for (example,) in visits]
    assert set(taught) == {"happy", "Relieved, at ease", "valence 0.4, arousal -0.1"}
    assert 20 < taught.count("happy") < 40
    only = trainee.examples(sample(arousal=1.0), reading(trainee), present=("face",), rng=rng, training=True)
    assert texts(trainee, only[0])[1] == "arousal 1.0"
    with pytest.raises(InputError, match="teaches nothing"):
        trainee.examples(sample(), reading(trainee), present=("face",), rng=rng, training=True)


def test_a_long_answer_is_cut_and_then_has_no_end_to_learn(trainee: PresetTrainee) -> None:
    turns = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "word " * 400}]
    example = trainee.examples(
        sample(messages=turns), reading(trainee), present=("voice",), rng=Random(0), training=True
    )[0]
    assert len(example.ids) == trainee.config.backbone.max_positions
    assert example.is_answer[-1]
    assert example.ids[-1] != trainee.renderer.end_id


@pytest.mark.parametrize("bits", [0, 4])
def test_the_loss_falls_and_the_learned_label_wins(trainee: PresetTrainee, bits: int, tmp_path: Path) -> None:
    if bits:
        pytest.importorskip("bitsandbytes", reason="4 bits need the extra 'gpu'")
    labels = ("joyful", "afraid", "amused")  # of one length, so that none is likelier by being short
    tuned = PresetTrainee(options(trainee.name, bits=bits), labels)
    model = tuned.build_model(lora=LORA, train_projectors=True, seed=0).train()
    groups = [("afraid", 1), ("amused", 2)]
    everything = ("scene", "face", "voice")
    examples = [
        tuned.examples(
            sample(label=name), reading(tuned, seed=seed), present=everything, rng=FirstWording(), training=True
        )[0]
        for name, seed in groups
    ]
    batch = collate(examples, pad_id=tuned.pad_id, label_token_ids=())
    assert int((batch.asked | (batch.targets > 0)).sum()) == 0
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-2)
    losses = []
    for _ in range(20):
        loss, _ = model.answer_loss(batch.inputs)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    prompts = [
        tuned.examples(sample(), reading(tuned, seed=seed), present=everything, rng=Random(9), training=False)[0]
        for _, seed in groups
    ]
    model.eval()
    scores = tuned.label_scores(model, prompts)
    assert scores.shape == (2, len(labels))
    assert (scores.argmax(1) != 0).all()  # never the label that was not learned
    assert np.allclose(scores, one_by_one(tuned, model, prompts, labels), atol=1e-3)
    outcome = Outcome(recipe="debug", figures={"macro_f1": 0.5}, counts={"train": {"afraid": 1}})
    tuned.export(model, tmp_path, outcome=outcome)
    assert read_adapter_config(tmp_path) == LORA
    info = AdapterInfo.load(tmp_path)
    assert info is not None
    assert (info.base, info.labels, info.answers) == (tuned.name, labels, "own")
    assert "0.5000" in (tmp_path / "ADAPTER_CARD.md").read_text()
    again = PresetTrainee(options(trainee.name, bits=bits, adapter=str(tmp_path)), labels)
    assert again.lora == LORA
    resumed = again.build_model(lora=again.lora, train_projectors=True, seed=5).eval()
    assert np.allclose(again.label_scores(resumed, prompts), scores, atol=1e-4)
    trained = memory_report(model).trained
    assert memory_report(resumed).trained == trained


class FirstWording(Random):
    """Asks in the wording that labels are scored with."""

    def randrange(self, *_: object) -> int:  # type: ignore[override]
        return 0


def one_by_one(trainee: PresetTrainee, model: EmoLlama, prompts: list[Example], labels: tuple[str, ...]) -> np.ndarray:
    """The same scores, each label in a pass of its own."""
    table = np.zeros((len(prompts), len(labels)))
    for row, prompt in enumerate(prompts):
        for column, label in enumerate(labels):
            answer = trainee.renderer.answer(label)
            ids = (*prompt.ids, *answer)
            whole = Example(ids=ids, is_answer=(False,) * len(ids), features=prompt.features)
            batch = collate([whole], pad_id=trainee.pad_id, label_token_ids=())
            with torch.no_grad():
                logits = model(batch.inputs)[0, len(prompt.ids) - 1 : -1].log_softmax(-1)
            table[row, column] = sum(float(logits[index, token]) for index, token in enumerate(answer))
    return table


def test_only_what_is_asked_for_is_trained(trainee: PresetTrainee) -> None:
    align = trainee.build_model(lora=None, train_projectors=True, seed=0)
    names = {name.split(".")[0] for name, parameter in align.named_parameters() if parameter.requires_grad}
    assert names == {"projectors"}
    tune = trainee.build_model(lora=LORA, train_projectors=False, seed=0)
    assert all("lora_" in name for name, parameter in tune.named_parameters() if parameter.requires_grad)
    same = trainee.build_model(lora=LORA, train_projectors=False, seed=0)
    pairs = zip(tune.parameters(), same.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    checked = PresetTrainee(options(trainee.name, gradient_checkpointing=True), LABELS)
    model = checked.build_model(lora=LORA, train_projectors=False, seed=0)
    assert base_of(model.backbone).is_activation_checkpointing


def test_an_adapter_of_another_base_is_refused_by_name(trainee: PresetTrainee, tmp_path: Path) -> None:
    model = trainee.build_model(lora=LORA, train_projectors=True, seed=0)
    trainee.export(model, tmp_path, outcome=Outcome(recipe="debug"))
    document = json.loads((tmp_path / "emollama.json").read_text())
    (tmp_path / "emollama.json").write_text(json.dumps({**document, "base": "nano"}))
    other = PresetTrainee(options(trainee.name, adapter=str(tmp_path)), LABELS)
    with pytest.raises(CheckpointError, match=f"was trained on nano .*this is {trainee.name}"):
        other.build_model(lora=LORA, train_projectors=True, seed=0)


def test_replay_comes_from_the_users_file_or_says_what_cannot_be_known(trainee: PresetTrainee, tmp_path: Path) -> None:
    rng = Random(0)
    drawn = [trainee.replay(rng) for _ in range(60)]
    assert all(example is not None and not example.features for example in drawn)
    assert len({example.ids for example in drawn if example is not None}) > 8
    path = tmp_path / "general.jsonl"
    turns = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "Four."}]
    path.write_text(json.dumps({"messages": turns}) + "\n")
    own = PresetTrainee(options(trainee.name, replay=str(path)), LABELS).replay(rng)
    assert own is not None
    assert texts(trainee, own)[1] == "Four."


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("nonsense", "not JSON"),
        ('{"messages": [{"role": "user", "content": "a"}]}', "in turn"),
        ('{"messages": [{"role": "tool", "content": "a"}]}', r"messages\.0\.role"),
        ('{"prompt": "a"}', "messages"),
        ("", "no dialogues"),
    ],
)
def test_a_wrong_replay_file_is_refused_with_its_line(tmp_path: Path, line: str, problem: str) -> None:
    path = tmp_path / "general.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(DatasetError, match=problem):
        read_dialogues(path)


def test_weights_that_are_not_there_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(DependencyError, match=r"llama-3\.1-8b-instruct"):
        PresetTrainee(ClipOptions(model="emollama-8b"), LABELS)
    names = ("llama-2-7b-chat", "eva-clip-g", "face-mae", "video-mae", "chinese-hubert-large", "nano")
    weights = ",".join(f"{name}={tmp_path}" for name in names)
    with pytest.raises(InputError, match="does not use: nano"):
        PresetTrainee(ClipOptions(model="emotion-llama-7b", weights=weights), LABELS)
    assert read_pairs(" a = x , b=y ") == {"a": Path("x"), "b": Path("y")}
    for wrong in ("a", "a=", "a=x,a=y"):
        with pytest.raises(InputError, match="weights"):
            read_pairs(wrong)
    with pytest.raises(InputError, match="allowed: emotion, reason"):
        PresetTrainee(options("emollama-8b", task="caption"), LABELS)


def test_training_shows_the_frame_that_it_is_told_to_and_the_export_says_which(tmp_path: Path) -> None:
    from emollama.checkpoint import ASSETS
    from emollama.faces import track_faces
    from emollama.media import read_clip
    from emollama.peak_frame import PeakFrame

    own = tmp_path / "own"
    own.mkdir()
    for name in ("face.safetensors", "face.json"):
        shutil.copyfile(ASSETS / "nano" / name, own / name)
    first, peak, mine = (
        PresetTrainee(options("emotion-llama-7b", **more), LABELS)
        for more in ({}, {"picture": "peak"}, {"picture": "peak", "peak": str(own)})
    )
    assert len({first.version, peak.version, mine.version}) == 3  # what was read for one is not taken for another
    person = read_clip(ASSETS / "sample" / "sample.mp4", fps=5.0, end=3.0)
    before, after = first.read(person), peak.read(person)
    assert person.frames is not None
    track = next(track for track in track_faces(person.frames, audio=person.audio) if track.is_main)
    at = PeakFrame.load().time(track)
    nearest = int(np.abs(person.frames.times - at).argmin())
    assert nearest > 0
    assert not np.array_equal(before.tokens["patches"], after.tokens["patches"])
    for stream in ("face", "temporal", "audio"):
        assert np.array_equal(before.tokens[stream], after.tokens[stream])
    model = mine.build_model(lora=LORA, train_projectors=True, seed=0)
    mine.export(model, tmp_path / "export", outcome=Outcome(recipe="debug"))
    info = AdapterInfo.load(tmp_path / "export")
    assert info is not None
    assert info.picture == "peak"
    assert (tmp_path / "export" / "peak" / "face.safetensors").read_bytes() == (own / "face.safetensors").read_bytes()
    for model_name, more, said in (
        ("emollama-8b", {"picture": "peak"}, "looks at 8 frames"),
        ("emotion-llama-7b", {"peak": str(own)}, "no effect without picture=peak"),
    ):
        with pytest.raises(InputError, match=said):
            PresetTrainee(options(model_name, **more), LABELS)
