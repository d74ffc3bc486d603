import pytest

from emollama.labels import NANO_LABELS
from emollama.parse import parse_reply, stated_labels


@pytest.mark.parametrize(
    ("text", "label", "form"),
    [
        ("Sad.", "sadness", "word"),
        ("“Happiness”", "happiness", "word"),
        ("Emotion: anger", "anger", "word"),
        ("The label is fearful", "fear", "word"),
        ("The person appears mostly sad, and the voice is low.", "sadness", "sentences"),
        ("At first they seem to be quite angry. Later nothing changes.", "anger", "sentences"),
        ("I would go with this. The emotion is disgust, I think.", "disgust", "sentences"),
        ('{"emotion": "Joyful", "rationale": "The mouth corners rise."}', "happiness", "json"),
        ('Here:\n```json\n{"emotion": {"label": "fear"}}\n```', "fear", "json"),
        ('{"emotions": ["anger"]}', "anger", "json"),
        ("The person appears happy. The person appears sad.", None, "unparseable"),
        ("The person appears unhappyish.", None, "unparseable"),
        ('{"emotion": "hungry"}', None, "unparseable"),
        ('{"mood": "sad"}', None, "unparseable"),
        ("I cannot tell.", None, "unparseable"),
        ("", None, "unparseable"),
    ],
)
def test_replies(text, label, form):
    reply = parse_reply(text, labels=NANO_LABELS)
    assert (reply.label, reply.form) == (label, form)


def test_the_label_comes_back_in_the_askers_word():
    assert parse_reply("Happiness", labels=("Joy", "sorrow")).label == "Joy"
    assert parse_reply("The person appears sad.", labels=("joyful", "bored", "sad")).label == "sad"
    assert parse_reply("The person appears angry.", labels=("joyful", "sad")).label is None


def test_fine_words_are_known_without_a_label_set():
    assert parse_reply("gratitude").label == "gratitude"


def test_the_prose_is_kept_as_rationale():
    assert parse_reply('{"label": "sad", "reason": "The brows are drawn."}').rationale == "The brows are drawn."
    assert parse_reply("Sad.\nThe brows are drawn.").rationale == "The brows are drawn."
    assert parse_reply("The person appears sad.").rationale == "The person appears sad."
    assert parse_reply("{broken").form == "unparseable"


def test_every_claim_is_listed():
    assert stated_labels("The person appears happy; later they look sad.", labels=NANO_LABELS) == (
        "happiness",
        "sadness",
    )
