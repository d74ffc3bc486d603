from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from emollama.endpoint import EndpointUnusableError
from emollama.errors import DatasetError, InputError
from eval.judge import Judge, JudgeOptions, OverlapResult, Pair, agreement, clue_overlap, label_overlap, load_prompt
from eval.judge.judge import MOST_FAILURES_IN_A_ROW

PAIRS = [
    Pair(name="a", gold="brows drawn down", prediction="brows drawn", group="s1"),
    Pair(name="b", gold="a wide smile", prediction="a narrow frown", group="s2"),
    Pair(name="c", gold="wet eyes", prediction="wet eyes and lips", group="s2"),
    Pair(name="d", gold="loud voice", prediction="  ", group="s3"),
]


def without_origin(result: OverlapResult) -> dict[str, Any]:
    document = result.to_json_dict()
    document["judge"] = {key: value for key, value in document["judge"].items() if key != "asked"}
    return document


def test_two_steps_and_their_mean(judging: Any, make_judge: Callable[..., Judge], prompt_of: Any) -> None:
    result = clue_overlap(make_judge(), PAIRS)
    assert [pair.score for pair in result.pairs] == pytest.approx([20 / 3, 10 / 3, 10, 0])
    assert result.value == pytest.approx(5.0)
    assert result.low is not None
    assert result.high is not None
    assert result.low <= result.value <= result.high
    assert (result.num_unjudged, result.num_empty, result.no_figure) == (0, 1, None)
    assert result.pairs[0].gold == ("brows", "drawn", "down")
    assert sorted(prompt_of(body) for body in judging.bodies) == ["compare"] * 3 + ["extract_clues"] * 6
    assert all(body["temperature"] == 0 for body in judging.bodies)
    assert all(body["response_format"] == {"type": "json_object"} for body in judging.bodies)
    document = result.to_json_dict()
    assert {prompt["name"]: prompt["sha256"] for prompt in document["judge"]["prompts"]} == {
        name: load_prompt(name).sha256 for name in ("extract_clues", "compare_clues")
    }
    assert (document["judge"]["model"], document["judge"]["answered_as"]) == ("m", ["fake-1"])
    assert OverlapResult.from_json_dict(json.loads(json.dumps(document))) == result


def test_judged_again_nothing_is_asked_and_nothing_changes(judging: Any, make_judge: Callable[..., Judge]) -> None:
    first = label_overlap(make_judge(), PAIRS)
    asked = len(judging.bodies)
    judging.verdict = lambda body: {"score": 1}
    again = label_overlap(make_judge(), PAIRS)
    assert len(judging.bodies) == asked
    assert without_origin(again) == without_origin(first)
    # the truth of a clip is read once for all models that are judged on it
    label_overlap(make_judge(), [Pair(name="a", gold=PAIRS[0].gold, prediction="something else")])
    assert len(judging.bodies) == asked + 2


def test_the_order_of_pairs_does_not_matter(judging: Any, make_judge: Callable[..., Judge]) -> None:
    forwards, backwards = clue_overlap(make_judge(), PAIRS), clue_overlap(make_judge(), PAIRS[::-1])
    assert forwards.pairs == backwards.pairs[::-1]
    assert forwards.value == pytest.approx(backwards.value)


@pytest.mark.parametrize(
    "reply",
    ['{"score": 11}', '{"score": NaN}', "I would say 8 out of 10.", '{"score": "8"}', '{"clues": []}', '{"score": 5'],
)
def test_nonsense_is_asked_again_in_other_words(
    judging: Any, make_judge: Callable[..., Judge], completion: Any, by_rule: Any, prompt_of: Any, reply: str
) -> None:
    second = load_prompt("compare_clues").phrasings[1][:20]

    def answer(body: Any, n: int) -> Any:
        is_nonsense = prompt_of(body) == "compare" and second not in body["messages"][1]["content"]
        return 200, {}, completion(reply if is_nonsense else json.dumps(by_rule(body)))

    judging.reply = answer
    result = clue_overlap(make_judge(), PAIRS)
    assert result.value == pytest.approx(5.0)
    assert result.to_json_dict()["judge"]["asked"]["rephrased"] == 3


def spoil(judging: Any, by_rule: Any, completion: Any, text: str, answer: Any) -> None:
    """Let the endpoint give ``answer`` to every request that holds ``text``."""

    def reply(body: Any, n: int) -> Any:
        if text in body["messages"][1]["content"]:
            return answer() if callable(answer) else answer
        return 200, {}, completion(json.dumps(by_rule(body)))

    judging.reply = reply


def test_what_cannot_be_judged_is_left_out_and_said(
    judging: Any, make_judge: Callable[..., Judge], by_rule: Any, completion: Any
) -> None:
    spoil(judging, by_rule, completion, "a wide smile", (200, {}, completion("Sorry, I cannot rate this. 9/10!")))
    result = clue_overlap(make_judge(options={"max_unjudged_share": 0.25}), PAIRS)
    assert result.num_unjudged == 1
    assert result.pairs[1].unjudged is not None
    assert result.pairs[1].unjudged.count("the reply is no JSON") == 2, "both phrasings are told"
    assert result.value == pytest.approx((20 / 3 + 10 + 0) / 3), "the mean is of those that were judged"
    document = result.to_json_dict()
    assert (document["n"], document["judged"], document["unjudged"]) == (4, 3, 1)
    assert document["pairs"][1]["score"] is None


def test_too_many_failures_give_no_figure(
    judging: Any, make_judge: Callable[..., Judge], by_rule: Any, completion: Any
) -> None:
    spoil(judging, by_rule, completion, "a wide smile", (200, {}, completion("9")))
    result = clue_overlap(make_judge(), PAIRS)
    assert (result.value, result.low, result.high, result.spread) == (None, None, None, None)
    assert result.no_figure is not None
    assert result.no_figure.startswith("1 items got no verdict, and 0 of 4 may have none (5%), so there is no figure")


def test_a_hopeless_run_is_not_paid_for(judging: Any, make_judge: Callable[..., Judge], completion: Any) -> None:
    judging.reply = lambda body, n: (200, {}, completion("no idea"))
    pairs = [Pair(name=str(i), gold=f"text {i}", prediction="x") for i in range(100)]
    result = clue_overlap(make_judge(options={"workers": 1}), pairs)
    assert result.value is None
    assert len(judging.bodies) == 2 * 6, "after more than 5 of 100 failed, no further item is asked"
    assert result.pairs[-1].unjudged is not None
    assert result.pairs[-1].unjudged.startswith("not asked any more")


def test_a_silent_judge_gives_no_figure(judging: Any, make_judge: Callable[..., Judge], completion: Any) -> None:
    def late(body: Any, n: int) -> Any:
        time.sleep(0.3)
        return 200, {}, completion('{"clues": ["x"]}')

    judging.reply = late
    result = clue_overlap(make_judge(timeout_seconds=0.05), PAIRS[:2])
    assert result.value is None
    assert result.no_figure is not None
    assert "gave no answer in 2 tries: no answer within 0.05 s" in result.no_figure


@pytest.mark.parametrize("trouble", [(429, {"Retry-After": "0"}, "slow"), (503, {}, "busy"), (200, {}, "")])
def test_passing_trouble_is_waited_out(
    judging: Any, make_judge: Callable[..., Judge], by_rule: Any, completion: Any, trouble: Any
) -> None:
    judging.reply = lambda body, n: trouble if n in (1, 5) else (200, {}, completion(json.dumps(by_rule(body))))
    judge = make_judge(max_tries=3)
    assert clue_overlap(judge, PAIRS).value == pytest.approx(5.0)
    assert judge.endpoint.usage.retries == 2


def test_an_endpoint_that_is_down_stops_the_run(judging: Any, make_judge: Callable[..., Judge]) -> None:
    judging.reply = lambda body, n: (500, {}, "down")
    pairs = [Pair(name=str(i), gold=f"text {i}", prediction="x") for i in range(500)]
    with pytest.raises(
        EndpointUnusableError, match=f"did not answer {MOST_FAILURES_IN_A_ROW} times in a row"
    ) as raised:
        clue_overlap(make_judge(max_tries=1, options={"max_unjudged_share": 0.5, "workers": 1}), pairs)
    assert "status 500" in str(raised.value)
    assert len(judging.bodies) == MOST_FAILURES_IN_A_ROW


def test_a_wrong_key_stops_at_once(judging: Any, make_judge: Callable[..., Judge]) -> None:
    judging.reply = lambda body, n: (401, {}, {"error": {"message": "bad key"}})
    with pytest.raises(EndpointUnusableError, match="bad key"):
        clue_overlap(make_judge(options={"workers": 1}), PAIRS)
    assert len(judging.bodies) == 1


def test_an_endpoint_without_json_mode(
    judging: Any, make_judge: Callable[..., Judge], by_rule: Any, completion: Any
) -> None:
    def reply(body: Any, n: int) -> Any:
        if "response_format" in body:
            return 400, {}, {"error": {"message": "unknown field response_format"}}
        return 200, {}, completion(json.dumps(by_rule(body)))

    judging.reply = reply
    result = clue_overlap(make_judge(options={"workers": 1}), PAIRS)
    assert result.value == pytest.approx(5.0)
    assert result.judge["json_mode_refused"]
    assert sum("response_format" in body for body in judging.bodies) == 1


def test_a_reply_that_was_cut_off_is_no_reply(judging: Any, make_judge: Callable[..., Judge], completion: Any) -> None:
    cut = completion('{"clues": ["x"]}')
    cut["choices"][0]["finish_reason"] = "length"
    judging.reply = lambda body, n: (200, {}, cut)
    result = clue_overlap(make_judge(), PAIRS[:2])
    assert result.no_figure is not None
    assert "cut off after 400 tokens" in result.no_figure


def test_nothing_extracted(judging: Any, make_judge: Callable[..., Judge], by_rule: Any, completion: Any) -> None:
    pairs = [*PAIRS[:3], Pair(name="e", gold="sad", prediction=".")]
    result = label_overlap(make_judge(), pairs)
    assert result.pairs[3].score == 0.0
    assert result.pairs[3].reason == "the judge found no labels in the prediction"
    pairs = [*PAIRS[:3], Pair(name="f", gold=".", prediction="sad")]
    result = label_overlap(make_judge(options={"max_unjudged_share": 0.5}), pairs)
    assert result.pairs[3].unjudged == "the judge found no labels in the true description"


def test_repeats_and_their_spread(judging: Any, make_judge: Callable[..., Judge], by_rule: Any, prompt_of: Any) -> None:
    shift = {0: 0.0, 1: 1.0, 2: 2.0}
    judging.verdict = lambda body: (
        {"score": 4 + shift[body["seed"] - 10]} if prompt_of(body) == "compare" else by_rule(body)
    )
    result = clue_overlap(make_judge(temperature=0.7, seed=10, options={"repeats": 3}), PAIRS[:3])
    assert result.repeat_means == (4.0, 5.0, 6.0)
    assert (result.value, result.spread) == (5.0, 1.0)
    assert result.mean_difference_of_repeats == pytest.approx(4 / 3)
    assert clue_overlap(make_judge(temperature=0.7, seed=10), PAIRS[:3]).spread is None


def test_two_judges(judging: Any, make_judge: Callable[..., Judge], by_rule: Any, prompt_of: Any) -> None:
    first = clue_overlap(make_judge(), PAIRS)
    judging.verdict = lambda body: (
        {"score": by_rule(body)["score"] / 2} if prompt_of(body) == "compare" else by_rule(body)
    )
    second = clue_overlap(make_judge(model="other"), PAIRS)
    found = agreement(first, second)
    # 6.67, 3.33, 10, 0 against 3.33, 1.67, 5, 0
    assert found.n == 4
    assert found.difference == pytest.approx(2.5)
    assert found.distance == pytest.approx(2.5)
    assert found.share_near == 0.25
    assert found.pearson == pytest.approx(1.0)
    with pytest.raises(InputError, match="judged clues and labels"):
        agreement(first, label_overlap(make_judge(), PAIRS))
    with pytest.raises(InputError, match="different pairs"):
        agreement(first, clue_overlap(make_judge(), PAIRS[:3]))


def test_what_cannot_be_compared_is_refused(judging: Any, make_judge: Callable[..., Judge]) -> None:
    with pytest.raises(DatasetError, match="'x' has an empty true description"):
        clue_overlap(make_judge(), [Pair(name="x", gold=" ", prediction="y")])
    with pytest.raises(DatasetError, match="'a' is there twice"):
        clue_overlap(make_judge(), [PAIRS[0], PAIRS[0]])
    assert clue_overlap(make_judge(), []).no_figure == "there is nothing to judge"
    with pytest.raises(InputError, match="max_unjudged_share is 1"):
        JudgeOptions(max_unjudged_share=1.0)
    with pytest.raises(InputError, match="repeats is 0"):
        JudgeOptions(repeats=0)
    assert judging.bodies == []
