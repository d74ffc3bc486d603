from collections.abc import Callable
from pathlib import Path

import pytest

from emollama.errors import InputError
from emollama.manifest import Sample
from train.builders.merr import prompts
from train.builders.merr.estimate import Prices, estimate
from train.builders.merr.observation import Observation
from train.builders.merr.rules import RulesFile
from train.builders.merr.state import BuildConfig, Record, RunFolder, row_sha256

Seen = Callable[..., Observation]
ASKS = BuildConfig(writer="endpoint", endpoint_url="http://x", endpoint_model="m", attempts=3)
SAMPLES = tuple(Sample(id=name, clip=f"{name}.mp4") for name in "abcd")


def test_it_is_an_upper_bound_of_the_real_prompts(tmp_path: Path, rules: RulesFile, seen: Seen) -> None:
    run = RunFolder(tmp_path / "r")
    before = estimate(SAMPLES, config=ASKS, run=run, rules=rules.rules)
    assert (before.requests.low, before.requests.high) == (4, 12)
    assert (before.samples, before.finished, before.observed) == (4, 0, 0)
    assert before.prompt_tokens.high == 3 * before.prompt_tokens.low
    assert before.money is None
    assert before.minutes is None
    for sample in SAMPLES[:2]:
        run.save(Record(id=sample.id, row_sha256=row_sha256(sample), stage="observed", observation=seen()))
    run.save(Record(id="c", row_sha256=row_sha256(SAMPLES[2]), stage="dropped", code="x", reason="y"))
    after = estimate(SAMPLES, config=ASKS, run=run, rules=rules.rules)
    assert (after.finished, after.observed, after.requests.low) == (1, 2, 3)
    assert after.prompt_tokens.low < before.prompt_tokens.low * 3 / 4
    real = prompts.explain(seen(), ()).num_characters
    assert real < before.prompt_tokens.low  # 4 characters a token, 4 samples


def test_money_and_time_only_from_what_is_given(tmp_path: Path, rules: RulesFile) -> None:
    run = RunFolder(tmp_path / "r")
    found = estimate(
        SAMPLES, config=ASKS, run=run, rules=rules.rules, prices=Prices(prompt=2.0, answer=10.0), requests_per_minute=2
    )
    low = (found.prompt_tokens.low * 2 + found.answer_tokens.low * 10) / 1e6
    assert found.money == (pytest.approx(low), pytest.approx(3 * low))
    assert found.minutes == 2.0
    with pytest.raises(InputError, match="one price is given"):
        Prices(prompt=1.0)


def test_pictures_are_counted_when_their_price_is_known(tmp_path: Path, rules: RulesFile) -> None:
    config = BuildConfig(describe=True, endpoint_url="http://x", endpoint_model="m")
    run = RunFolder(tmp_path / "r")
    without = estimate(SAMPLES, config=config, run=run, rules=rules.rules)
    assert without.requests.low == 4
    assert any("pictures are not counted" in note for note in without.notes)
    counted = estimate(SAMPLES, config=config, run=run, rules=rules.rules, prices=Prices(image_tokens=1000))
    assert counted.prompt_tokens.low - without.prompt_tokens.low == 4000


def test_nano_asks_nobody(tmp_path: Path, rules: RulesFile) -> None:
    found = estimate(SAMPLES, config=BuildConfig(), run=RunFolder(tmp_path / "r"), rules=rules.rules)
    assert (found.requests.high, found.prompt_tokens.high, found.notes) == (0, 0, ())
