import dataclasses

import numpy as np
import pytest
import torch

from emollama.encoders import whisper as shaped
from emollama.encoders.whisper import WhisperEncoder, WhisperShape, WhisperShapedEncoder
from emollama.errors import CheckpointError, DependencyError, InputError, UnknownNameError
from emollama.types import Audio

# The tokenizer of openai-whisper leaves its vocabulary file open.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")

SECONDS = 1.0


@pytest.fixture(scope="module")
def package():
    return pytest.importorskip("whisper")


@pytest.fixture(scope="module")
def checkpoint(package):
    torch.manual_seed(0)
    dims = package.ModelDimensions(
        n_mels=80, n_audio_ctx=50, n_audio_state=16, n_audio_head=2, n_audio_layer=2,
        n_vocab=51865, n_text_ctx=24, n_text_state=16, n_text_head=2, n_text_layer=1,
    )  # fmt: skip
    model = package.model.Whisper(dims)
    with torch.no_grad():
        model.decoder.positional_embedding.normal_()
    return {"dims": dataclasses.asdict(dims), "model_state_dict": model.state_dict()}


@pytest.fixture(scope="module")
def file(checkpoint, tmp_path_factory):
    path = tmp_path_factory.mktemp("whisper") / "mini.pt"
    torch.save(checkpoint, path)
    return path


@pytest.fixture(scope="module")
def sound():
    rng = np.random.default_rng(0)
    return (0.1 * rng.standard_normal(int(SECONDS * 16_000))).astype(np.float32)


def test_log_mel_is_that_of_openai_whisper(package, sound):
    assert np.allclose(shaped.mel_filters(80), package.audio.mel_filters("cpu", 80), atol=1e-6)
    theirs = package.log_mel_spectrogram(sound)
    ours = shaped.log_mel(torch.from_numpy(sound))
    assert ours.shape == theirs.shape == (80, 100)
    assert torch.allclose(ours, theirs, atol=1e-4)


def test_a_sound_shorter_than_a_window_has_features():
    assert shaped.log_mel(torch.zeros(160)).shape == (80, 1)


def test_weights_of_openai_whisper_load_strictly_and_give_the_same_features(package, checkpoint, sound):
    theirs = package.model.Whisper(package.ModelDimensions(**checkpoint["dims"]))
    theirs.load_state_dict(checkpoint["model_state_dict"])
    ours = shaped.encoder_from_whisper(checkpoint)
    mel = shaped.log_mel(torch.from_numpy(sound))[None]
    with torch.no_grad():
        assert torch.allclose(ours(mel), theirs.encoder(mel), atol=1e-4)


def test_a_checkpoint_with_a_missing_weight_is_refused(checkpoint):
    state = {k: v for k, v in checkpoint["model_state_dict"].items() if k != "encoder.ln_post.weight"}
    with pytest.raises(CheckpointError, match="ln_post"):
        shaped.encoder_from_whisper({**checkpoint, "model_state_dict": state})


def test_any_length_is_taken_up_to_the_positions():
    encoder = WhisperShapedEncoder(WhisperShape(num_positions=20, width=16, num_heads=2, num_layers=1)).eval()
    with torch.no_grad():
        assert encoder(torch.zeros(2, 80, 7)).shape == (2, 4, 16)
        with pytest.raises(InputError, match="at most 40"):
            encoder(torch.zeros(1, 80, 42))


def test_masked_frames_change_nothing():
    torch.manual_seed(0)
    encoder = WhisperShapedEncoder(WhisperShape(num_positions=20, width=16, num_heads=2, num_layers=2)).eval()
    mel = torch.randn(1, 80, 40)
    mask = torch.arange(20)[None] < 10
    other = mel.clone()
    other[..., 24:] = 5.0
    with torch.no_grad():
        assert torch.allclose(encoder(mel, mask)[:, :10], encoder(other, mask)[:, :10], atol=1e-5)


@pytest.mark.parametrize("wrong", [{"width": 0}, {"width": 30, "num_heads": 4}, {"num_layers": 0}])
def test_impossible_shapes_are_refused(wrong):
    with pytest.raises(InputError):
        WhisperShape(**wrong)


def test_one_pass_gives_features_and_words(package, file, sound, monkeypatch):
    encoder = WhisperEncoder.load(str(file))
    passes = []
    encoder.model.encoder.register_forward_hook(lambda *_: passes.append(1))
    asked = {}
    decode = package.decode

    def spy(model, features, options):
        asked["shape"] = tuple(features.shape)
        return decode(model, features, options)

    monkeypatch.setattr(package, "decode", spy)
    heard = encoder.hear(Audio(samples=np.tile(sound, 2)[:24_000], start=2.0), language="en")
    assert heard.features.tokens.shape == (75, encoder.width)
    assert len(passes) == 2  # 1.5 s in windows of 1 s; decoding did not encode again
    assert asked["shape"] == (1, 50, 16)
    if heard.transcript is not None:
        assert heard.transcript.source == "asr"
        assert all(2.0 <= s.start <= s.end <= 3.5 + 1e-6 for s in heard.transcript.segments)


def test_timestamps_cut_the_words(package, file):
    from whisper.tokenizer import get_tokenizer

    encoder = WhisperEncoder.load(str(file))
    tokenizer = get_tokenizer(True, num_languages=encoder.model.num_languages)
    zero = tokenizer.timestamp_begin
    tokens = [zero, *tokenizer.encode(" hello"), zero + 20, zero + 20, *tokenizer.encode(" you there")]
    result = package.DecodingResult(audio_features=None, language="en", tokens=tokens)
    first, second = encoder._timed(result, offset=10.0, seconds=0.8)
    assert (first.text, second.text) == ("hello", "you there")
    assert (first.start, first.end, second.start, second.end) == pytest.approx((10.0, 10.4, 10.4, 10.8))


def test_features_alone_need_no_decoding(file, sound):
    heard = WhisperEncoder.load(str(file)).hear(Audio(samples=sound), transcribe=False)
    assert heard.transcript is None
    assert heard.features.tokens.shape == (50, 16)


def test_nothing_is_downloaded_unless_asked(package, tmp_path, monkeypatch):
    monkeypatch.setattr(package, "_download", lambda *_, **__: pytest.fail("a download was tried"))
    with pytest.raises(DependencyError, match="--asr whisper-base"):
        WhisperEncoder.load("base", root=tmp_path)
    (tmp_path / "base.pt").write_bytes(b"not the weights")
    with pytest.raises(CheckpointError, match="sha256"):
        WhisperEncoder.load("base", root=tmp_path)


def test_a_download_that_was_asked_for_goes_to_the_cache(package, tmp_path, monkeypatch, checkpoint):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(package, "_download", lambda url, root, in_memory: torch.save(checkpoint, f"{root}/tiny.pt"))
    monkeypatch.setitem(package._ALIGNMENT_HEADS, "tiny", None)
    (tmp_path / "whisper").mkdir()
    assert WhisperEncoder.load("tiny", download=True).name == "whisper-tiny"


def test_wrong_names_and_files_are_said(tmp_path, checkpoint):
    with pytest.raises(UnknownNameError, match="large-v3"):
        WhisperEncoder.load("enormous")
    with pytest.raises(CheckpointError, match="no Whisper checkpoint"):
        WhisperEncoder.load(str(tmp_path / "absent.pt"))
    bad = tmp_path / "bad.pt"
    bad.write_bytes(b"junk")
    with pytest.raises(CheckpointError, match="not a readable"):
        WhisperEncoder.load(str(bad))
    torch.save({"weights": torch.zeros(1)}, bad)
    with pytest.raises(CheckpointError, match="lacks"):
        WhisperEncoder.load(str(bad))
    torch.save({**checkpoint, "dims": {**checkpoint["dims"], "n_audio_state": 32}}, bad)
    with pytest.raises(CheckpointError, match="does not fit"):
        WhisperEncoder.load(str(bad))
