import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy import signal

from emollama.encoders import voice as module
from emollama.encoders.voice import VoiceConfig, VoiceEncoder
from emollama.encoders.whisper import WhisperShape, mel_power
from emollama.errors import CheckpointError, InputError
from emollama.labels import EMODB_6
from emollama.prosody import FUNCTIONAL_NAMES, measure
from emollama.types import Audio, VoiceReadings

SMALL = VoiceConfig(
    encoder=WhisperShape(num_positions=500, width=16, num_heads=2, num_layers=1), num_members=2, hidden=8
)


@pytest.fixture(scope="module")
def sound():
    t = np.arange(2 * 16_000) / 16_000
    phase = np.cumsum(150 + 25 * np.sin(2 * np.pi * 0.7 * t)) / 16_000
    pulses = np.diff(np.floor(phase), prepend=0.0)
    voice = signal.lfilter([1.0], [1.0, -1.8, 0.87], pulses) * (0.1 + np.sin(2 * np.pi * 2 * t) ** 2)
    return (0.2 * voice / np.abs(voice).max()).astype(np.float32)


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return VoiceEncoder.build(SMALL)


def test_a_voice_gets_probabilities_and_a_token(encoder, sound):
    audio = Audio(samples=sound, start=1.5)
    readings, features = encoder.read(audio, measure(audio))
    assert readings.labels == EMODB_6
    assert readings.probabilities.sum() == pytest.approx(1, abs=1e-5)
    assert features.tokens.shape == (1, encoder.token_width) == (1, 6 + len(FUNCTIONAL_NAMES))
    assert np.allclose(np.exp(features.tokens[0, :6]), readings.probabilities, atol=1e-6)
    assert np.abs(features.tokens[0, 6:]).max() <= module.CLIP_FUNCTIONALS


def test_no_voice_gives_nothing(encoder):
    silent = VoiceReadings(voiced_seconds=0.0, segments=())
    assert encoder.read(Audio(samples=np.zeros(16_000, np.float32)), silent) == (silent, None)


def test_the_gain_of_the_microphone_does_not_matter(encoder, sound):
    loud, soft = Audio(samples=sound), Audio(samples=sound * np.float32(0.02))
    first, second = (encoder.read(a, measure(a))[1].tokens for a in (loud, soft))
    assert np.allclose(first, second, atol=0.03)


def test_long_speech_is_heard_in_windows(encoder, sound, monkeypatch):
    audio = Audio(samples=np.tile(sound, 12))
    readings = measure(audio)
    windows = module.voiced_windows(audio.samples, module.spans_of(audio, readings))
    assert len(windows) == 3
    assert max(w.shape[1] for w in windows) <= module.WINDOW_FRAMES
    monkeypatch.setattr(module, "MAX_WINDOWS", 2)
    assert len(module.voiced_windows(audio.samples, module.spans_of(audio, readings))) == 2
    assert encoder.read(audio, readings)[0].probabilities.sum() == pytest.approx(1, abs=1e-5)


def test_windows_are_whispers_spectrum_at_the_clips_own_level(sound):
    (window,) = module.voiced_windows(sound, [(20, 120)])
    power = mel_power(torch.from_numpy(sound))[:, 20:120]
    expected = torch.log10(power / torch.quantile(power.sum(0), 0.95) + 1e-7) / 2 + 1.5
    assert torch.allclose(window, expected, atol=1e-3)


def test_the_temperature_softens(encoder, sound):
    audio = Audio(samples=sound)
    readings = measure(audio)
    soft = VoiceEncoder(encoder.members, replace(SMALL, temperature=3.0))
    assert soft.read(audio, readings)[0].probabilities.max() < encoder.read(audio, readings)[0].probabilities.max()


def test_saving_and_loading_keep_the_answer(encoder, sound, tmp_path):
    encoder.save(tmp_path / "voice.safetensors", figures={"uar": 0.5})
    again = VoiceEncoder.load(tmp_path / "voice.safetensors")
    audio = Audio(samples=sound)
    before, after = (e.read(audio, measure(audio))[1].tokens for e in (encoder, again))
    assert np.allclose(before, after, atol=2e-2)
    assert again.config == SMALL
    assert json.loads((tmp_path / "voice.json").read_text())["figures"] == {"uar": 0.5}
    assert load_file(tmp_path / "voice.safetensors")["0.pooled.2.weight"].dtype == torch.float16


def test_files_that_do_not_fit_are_refused(encoder, tmp_path):
    path = tmp_path / "voice.safetensors"
    with pytest.raises(CheckpointError, match="beside it"):
        VoiceEncoder.load(path)
    encoder.save(path)
    state, document = load_file(path), json.loads((tmp_path / "voice.json").read_text())
    save_file({k: v for k, v in state.items() if k != "0.mean"}, path)
    with pytest.raises(CheckpointError, match=r"0\.mean"):
        VoiceEncoder.load(path)
    save_file({**state, "extra": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="extra"):
        VoiceEncoder.load(path)
    (tmp_path / "voice.json").write_text("{}")
    with pytest.raises(CheckpointError, match="damaged"):
        VoiceEncoder.load(path)
    document["model"]["functionals"] = document["model"]["functionals"][::-1]
    (tmp_path / "voice.json").write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match="other functionals"):
        VoiceEncoder.load(path)


@pytest.mark.parametrize(
    "wrong", [{"labels": ("joy",)}, {"num_members": 0}, {"temperature": 0.0}, {"prosody_inputs": ("charm",)}]
)
def test_impossible_configs_are_refused(wrong):
    with pytest.raises(InputError):
        VoiceConfig(**wrong)
