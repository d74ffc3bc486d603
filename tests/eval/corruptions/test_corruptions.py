from __future__ import annotations

import dataclasses
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from emollama.errors import DatasetError, InputError, UnknownNameError
from emollama.types import Audio, Clip, Frames, Transcript, TranscriptSegment
from eval.corruptions import CLEAN, CORRUPTIONS, find_corruption
from eval.corruptions.noise import NoiseFolder, make_noise, mix, rms

WORDS = "I did not think that you would ever come back to this house again"


def speech(seconds: float = 2.0, level: float = 0.1) -> np.ndarray:
    time = np.arange(round(seconds * 16_000)) / 16_000
    return (level * np.sin(2 * np.pi * 180 * time) * (1 + np.sin(2 * np.pi * 4 * time)) / 2).astype(np.float32)


@pytest.fixture
def clip() -> Clip:
    random = np.random.default_rng(5)
    images = random.integers(0, 256, (10, 48, 64, 3), dtype=np.uint8)
    segments = (
        TranscriptSegment(start=0.0, end=1.0, text="I did not think that"),
        TranscriptSegment(start=1.0, end=2.0, text="you would ever come back to this house again"),
    )
    return Clip(
        name="a",
        seconds=2.0,
        frames=Frames(images=images, times=np.arange(10) * 0.2, source_fps=25.0),
        audio=Audio(samples=speech(), start=0.25),
        transcript=Transcript(text=WORDS, segments=segments),
        sha256="0" * 64,
    )


def spoil(clip: Clip, name: str, level: str, *, seed: int = 1, noises: Any = None) -> Clip:
    corruption = find_corruption(name)
    corruption.check(level)
    return corruption.apply(clip, corruption.draw(level, Random(seed), noises), noises)


def same(first: Clip, second: Clip) -> bool:
    return (
        first.sha256 == second.sha256
        and np.array_equal(first.frames.images, second.frames.images)  # type: ignore[union-attr]
        and np.array_equal(first.frames.times, second.frames.times)  # type: ignore[union-attr]
        and np.array_equal(first.audio.samples, second.audio.samples)  # type: ignore[union-attr]
        and first.transcript == second.transcript
    )


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_every_corruption_changes_its_modality_and_nothing_else(clip: Clip, name: str) -> None:
    corruption = CORRUPTIONS[name]
    for level in corruption.levels:
        spoiled = spoil(clip, name, level)
        assert same(spoiled, spoil(clip, name, level)), "the same seed gives the same bits"
        assert spoiled.sha256 != clip.sha256, "a cache must not take it for the clip it was"
        assert spoiled.warnings == clip.warnings
        changed = {
            "visual": not np.array_equal(clip.frames.images, spoiled.frames.images),  # type: ignore[union-attr]
            "audio": not np.array_equal(clip.audio.samples, spoiled.audio.samples),  # type: ignore[union-attr]
            "text": clip.transcript != spoiled.transcript,
        }
        assert changed == {modality: modality == corruption.modality for modality in changed}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_clip_without_the_modality_says_that_nothing_was_done(clip: Clip, name: str) -> None:
    bare = dataclasses.replace(clip, frames=None, audio=None, transcript=None)
    spoiled = spoil(bare, name, CORRUPTIONS[name].levels[0])
    assert spoiled.warnings[-1].startswith("Nothing was corrupted: the clip has no ")
    assert dataclasses.replace(spoiled, warnings=()) == bare


@pytest.mark.parametrize(
    ("name", "levels"),
    [("blur", ["1"]), ("drop", ["0", "0.01"]), ("dark", ["1"]), ("words", ["0"]), ("cut_first", ["0"])],
)
def test_a_level_of_nothing_changes_nothing(clip: Clip, name: str, levels: list[str]) -> None:
    for level in levels:
        assert same(dataclasses.replace(spoil(clip, name, level), sha256=clip.sha256), clip)


@pytest.mark.parametrize("level", ["-5", "0", "10", "20"])
@pytest.mark.parametrize("name", ["noise", "noise_white", "noise_speech", "noise_babble"])
def test_the_ratio_that_is_asked_for_is_the_one_that_is_measured(clip: Clip, name: str, level: str) -> None:
    mixed = spoil(clip, name, level).audio
    assert mixed is not None
    assert mixed.start == 0.25
    clean = clip.audio.samples.astype(np.float64)  # type: ignore[union-attr]
    noise = mixed.samples - clean  # nothing clips at this level of the sound, so nothing was scaled
    assert 20 * np.log10(rms(clean) / rms(noise)) == pytest.approx(float(level), abs=0.01)


def test_a_mix_that_would_clip_is_made_quieter_as_a_whole() -> None:
    clean = speech(level=0.9)
    noise = make_noise("white", len(clean), 3)
    mixed = mix(clean, noise, 0.0).astype(np.float64)
    assert np.abs(mixed).max() == pytest.approx(1.0)
    parts, *_ = np.linalg.lstsq(np.stack([clean, noise], 1).astype(np.float64), mixed, rcond=None)
    assert 0.1 < parts[0] < 0.9
    assert 20 * np.log10(parts[0] * rms(clean) / (parts[1] * rms(noise))) == pytest.approx(0.0, abs=0.01)


def test_drawn_ratios_are_those_that_were_named() -> None:
    noise = find_corruption("noise")
    drawn = {noise.draw("5..10", Random(seed), None)["snr_db"] for seed in range(300)}
    assert drawn == {5.0, 6.0, 7.0, 8.0, 9.0, 10.0}
    assert {noise.draw("0|10|20", Random(seed), None)["snr_db"] for seed in range(60)} == {0.0, 10.0, 20.0}


def test_levels_of_one_item_share_their_noise(clip: Clip) -> None:
    quiet, loud = (spoil(clip, "noise", level).audio.samples - clip.audio.samples for level in ("20", "0"))  # type: ignore[union-attr]
    assert np.allclose(10 * quiet, loud, atol=1e-5)


def test_silence_is_not_given_noise_of_no_size(clip: Clip) -> None:
    silent = dataclasses.replace(clip, audio=Audio(samples=np.zeros(1600, np.float32)))
    spoiled = spoil(silent, "noise", "0")
    assert not spoiled.audio.samples.any()  # type: ignore[union-attr]
    assert "silent" in spoiled.warnings[0]


def share_above(samples: np.ndarray, hz: float) -> float:
    power = np.abs(np.fft.rfft(samples)) ** 2
    return float(power[np.fft.rfftfreq(len(samples), 1 / 16_000) > hz].sum() / power.sum())


def test_what_is_made_sounds_like_what_it_is_called() -> None:
    white, shaped, babble = (make_noise(kind, 32_000, 0) for kind in ("white", "speech_shaped", "babble"))  # type: ignore[arg-type]
    assert share_above(white, 4000) == pytest.approx(0.5, abs=0.05)
    assert share_above(shaped, 4000) < 0.02
    assert 1 - share_above(shaped, 50) < 0.01
    assert share_above(babble, 4000) < 0.2
    for noise in (white, shaped, babble):
        assert rms(noise) == pytest.approx(1.0)
        assert not np.array_equal(noise, make_noise("white", 32_000, 1))

    # voices swell and fade with their syllables, hiss does not
    def unsteady(noise: np.ndarray) -> float:
        return float(np.std([rms(part) for part in noise.reshape(-1, 800)]))

    assert unsteady(babble) > 5 * unsteady(white)


def test_a_telephone_band_has_nothing_above_four_kilohertz(clip: Clip) -> None:
    hiss = dataclasses.replace(clip, audio=Audio(samples=(0.1 * make_noise("white", 16_000, 1)).astype(np.float32)))
    narrow = spoil(hiss, "band", "8000").audio
    assert narrow is not None
    assert len(narrow.samples) == 16_000
    assert share_above(narrow.samples, 4500) < 1e-3
    assert share_above(hiss.audio.samples, 4500) > 0.4  # type: ignore[union-attr]


def test_cut_sound_keeps_its_times(clip: Clip) -> None:
    first, middle, last = (spoil(clip, f"cut_{where}", "0.25").audio for where in ("first", "middle", "last"))
    original = clip.audio
    assert first is not None
    assert middle is not None
    assert last is not None
    assert original is not None
    assert first.start == pytest.approx(0.25 + 0.5)
    assert np.array_equal(first.samples, original.samples[8000:])
    assert (last.start, len(last.samples)) == (0.25, 24_000)
    assert not middle.samples[12_000:20_000].any()
    assert np.array_equal(middle.samples[:12_000], original.samples[:12_000])
    assert original.samples[12_000:20_000].any(), "the clip that was given is left as it was"
    assert spoil(clip, "cut_first", "1").audio is None


def test_blur_is_the_pyramid(clip: Clip) -> None:
    import cv2

    image = clip.frames.images[3]  # type: ignore[union-attr]
    expected = cv2.pyrUp(cv2.pyrUp(cv2.pyrDown(cv2.pyrDown(image))))
    assert np.array_equal(spoil(clip, "blur", "4").frames.images[3], expected)  # type: ignore[union-attr]
    odd = dataclasses.replace(clip, frames=dataclasses.replace(clip.frames, images=clip.frames.images[:, :37, :51]))  # type: ignore[type-var, union-attr]
    assert spoil(odd, "blur", "4").frames.images.shape == (10, 37, 51, 3)  # type: ignore[union-attr]


def test_dropped_frames_are_a_part_of_those_dropped_at_a_higher_share(clip: Clip) -> None:
    few, many, all_but_one = (spoil(clip, "drop", share).frames for share in ("0.3", "0.7", "1"))
    assert few is not None
    assert many is not None
    assert all_but_one is not None
    assert (len(few.times), len(many.times), len(all_but_one.times)) == (7, 3, 1)
    assert set(many.times) < set(few.times)
    for time, image in zip(few.times, few.images, strict=True):
        assert np.array_equal(image, clip.frames.images[round(time / 0.2)])  # type: ignore[union-attr]


def test_dark_and_squeezed_pictures(clip: Clip) -> None:
    images = clip.frames.images.astype(int)  # type: ignore[union-attr]
    dark = spoil(clip, "dark", "2").frames.images  # type: ignore[union-attr]
    assert np.array_equal(dark, np.rint(255 * (images / 255) ** 2))
    flat = np.full((1, 48, 64, 3), (200, 30, 60), np.uint8)
    flat_clip = dataclasses.replace(clip, frames=Frames(images=flat, times=np.zeros(1), source_fps=None))
    squeezed = spoil(flat_clip, "jpeg", "30").frames.images.astype(int)  # type: ignore[union-attr]
    assert np.abs(squeezed - flat).max() < 12, "colours stay in their channels"
    errors = [np.abs(spoil(clip, "jpeg", q).frames.images - images).mean() for q in ("90", "30", "10")]  # type: ignore[union-attr]
    assert errors == sorted(errors)


def test_deleted_words_are_gone_from_text_and_segments(clip: Clip) -> None:
    left = spoil(clip, "words", "0.3").transcript
    assert left is not None
    assert len(left.text.split()) == 14 - 4
    assert " ".join(segment.text for segment in left.segments) == left.text
    remaining = iter(WORDS.split())
    assert all(word in remaining for word in left.text.split()), "the order stays"
    assert spoil(clip, "words", "1").transcript is None
    other = dataclasses.replace(clip, transcript=Transcript(text="Not again", segments=clip.transcript.segments))  # type: ignore[union-attr]
    kept = spoil(other, "words", "0.5").transcript
    assert kept is not None
    assert kept.segments == (), "segments that say something else are not kept"


@pytest.mark.parametrize(
    ("name", "level"),
    [
        ("noise", "loud"), ("noise", "10..5"), ("noise", "nan"), ("noise", "99"), ("noise", "0|x"), ("blur", "3"),
        ("blur", "0"), ("drop", "1.5"), ("dark", "0.5"), ("jpeg", "0"), ("jpeg", "12.5"), ("band", "500"),
        ("cut_first", "-1"), ("words", "half"),
    ],
)  # fmt: skip
def test_a_level_that_is_not_allowed_is_refused(name: str, level: str) -> None:
    with pytest.raises(InputError, match=r"level .* is not allowed; ") as raised:
        find_corruption(name).check(level)
    assert repr(level) in str(raised.value)


def test_an_unknown_corruption_lists_the_known() -> None:
    with pytest.raises(UnknownNameError, match="unknown corruption 'fog'; known: band, blur"):
        find_corruption("fog")
    assert CLEAN not in CORRUPTIONS


def test_recordings_of_noise(tmp_path: Path, clip: Clip, media: Any) -> None:
    for name, hz in (("a/one.wav", 1000.0), ("b/two.flac", 3000.0)):
        (tmp_path / name).parent.mkdir()
        media.wav(tmp_path / name, samples=media.tone(0.5, hz=hz, level=0.5))
    (tmp_path / "notes.txt").write_text("no sound")
    folder = NoiseFolder(tmp_path)
    assert folder.names == ["a/one.wav", "b/two.flac"]
    drawn = find_corruption("noise").draw("10", Random(4), folder)
    assert set(drawn) == {"file", "sha256", "offset", "snr_db"}
    mixed = find_corruption("noise").apply(clip, drawn, folder).audio
    assert mixed is not None
    noise = mixed.samples - clip.audio.samples  # type: ignore[union-attr]
    assert 20 * np.log10(rms(clip.audio.samples) / rms(noise)) == pytest.approx(10, abs=0.02)  # type: ignore[union-attr]
    hz = np.fft.rfftfreq(len(noise), 1 / 16_000)[np.abs(np.fft.rfft(noise)).argmax()]
    assert hz == pytest.approx({"a/one.wav": 1000, "b/two.flac": 3000}[drawn["file"]], abs=30)
    # the made kinds stay made, whatever folder there is
    assert find_corruption("noise_babble").draw("10", Random(4), folder)["made"] == "babble"
    # a file that has changed since it was drawn is not taken for the one that was
    media.wav(tmp_path / drawn["file"], samples=media.tone(0.5, hz=50.0))
    with pytest.raises(DatasetError, match="is not the file that was drawn"):
        find_corruption("noise").apply(clip, drawn, NoiseFolder(tmp_path))
    with pytest.raises(InputError, match="wants the folder it was drawn from"):
        find_corruption("noise").apply(clip, drawn, None)


def test_silent_stretches_of_a_recording_are_passed_over(tmp_path: Path, clip: Clip, media: Any) -> None:
    sound = np.concatenate([np.zeros(64_000, np.float32), media.tone(2.0, hz=500.0)])
    media.wav(tmp_path / "gap.wav", samples=sound)
    folder = NoiseFolder(tmp_path)
    drawn = {**folder.draw(Random(0)), "offset": 0.0}
    assert rms(folder.read(drawn, 16_000)) > 0.1
    media.wav(tmp_path / "gap.wav", samples=np.zeros(8000, np.float32))
    silent = NoiseFolder(tmp_path)
    with pytest.raises(DatasetError, match=r"gap\.wav is silent"):
        silent.read(silent.draw(Random(0)), 16_000)


def test_a_folder_without_noise_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"holds no \.wav"):
        NoiseFolder(tmp_path)
    with pytest.raises(DatasetError, match=r"does not exist; MUSAN is at openslr\.org/17"):
        NoiseFolder(tmp_path / "musan")
