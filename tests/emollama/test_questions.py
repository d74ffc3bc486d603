"""Which kind of answer a question wants: on phrasings that neither the grammar nor the word lists hold."""

from __future__ import annotations

import re

import pytest

from emollama.phrases import KINDS
from emollama.questions import kinds_for, shares

# Written before the word lists of emollama/questions.py; what was wrong here led to changes of them.
LOOKED_AT = {
    "why": (
        "For what reason do you say they are upset?", "Could you explain how you reached that conclusion?",
        "What gives you that impression of the emotion?", "Describe their feelings and justify your answer.",
        "What are the clues that this person is unhappy?", "Can you break down the emotional signals for me?",
    ),
    "what": (
        "What is this person feeling right now?", "How is she feeling?", "Does the speaker seem annoyed?",
        "Is this guy scared?", "Which feeling dominates in this video?", "Tell me the emotion.",
    ),
    "face": (
        "What can you tell from the facial features?", "Is he frowning?", "What is the look on her face?",
        "Do their eyes or mouth show anything?", "Just looking at the picture, what do you notice?",
        "what is their facial expression like",
    ),
    "voice": (
        "Is the pitch of the voice high or low?", "How is the tone of her speech?", "Does he sound nervous?",
        "Are they shouting?", "What can you hear in the audio?", "how fast are they talking",
    ),
    "words": (
        "What did the speaker say that hints at emotion?", "Which phrase in the transcript is most telling?",
        "What does the language used suggest?", "Does what they said matter?", "Quote the important words.",
        "and the text?",
    ),
    "agreement": (
        "Is the tone consistent with the facial expression?", "Do the voice and the face contradict each other?",
        "Are face and words in line with one another?",
        "Is there any mismatch between what is said and how it looks?", "Was that meant sarcastically?",
    ),
    "how_sure": (
        "How much do you trust this result?", "What's the probability that you're right?",
        "Are you certain about this?", "Could you be mistaken, how confident are you?", "Give me your certainty.",
    ),
    "change_mind": (
        "What evidence would alter your verdict?", "When would you change your assessment?",
        "What else would you need in order to be certain?", "What would convince you otherwise?",
    ),
    "how_strong": (
        "How intense does it look?", "Is this a strong emotion or just slight?", "What is the intensity?",
        "How powerful is the feeling?",
    ),
    "others": (
        "Are there any secondary emotions?", "What other feelings might be present?",
        "Is there another possible emotion?", "What would be your second guess?",
    ),
    "when": (
        "At which second does the emotion appear?", "How do the feelings develop during the clip?",
        "When does the smile start?", "What changes from beginning to end?",
        "Over which time range is this visible?",
    ),
    "one_word": ("Reply with a single word.", "Summarise the emotion in one word only.", "Label only, please."),
    "as_json": ("Output the emotion as JSON.", "Please format your answer as a JSON object.", "give json output"),
    "unknowable": (
        "What is her nationality?", "How tall is he?", "Does she have a mental illness?",
        "What is the person's job?", "Can you tell me tomorrow's weather?", "Who won the world cup?",
        "Is this woman married?", "Should I invest in stocks?", "What did they have for breakfast?",
        "Translate this into French.", "Is the person telling the truth?",
        "Write a Python function that sorts a list.",
    ),
}  # fmt: skip


# Written after that, and nothing was changed for what is wrong here.
HELD_OUT = {
    "why": (
        "What's your reasoning behind this?", "On what grounds do you judge the mood?",
        "Give an explanation of the emotional state.", "Please justify your reading of the emotion.",
        "What leads you to this interpretation?", "Why does she seem so sad?",
    ),
    "what": (
        "How is the person doing emotionally?", "Which emotion can be recognised here?", "Is the woman angry?",
        "What mood is the speaker in?", "Do they seem relaxed?", "What are the person's feelings?",
    ),
    "face": (
        "What is visible on the face?", "Is she smiling in the video?", "Describe how his face looks.",
        "What do the eyes tell you?", "How would you describe the person's facial expressions?",
        "what's up with the eyebrows",
    ),
    "voice": (
        "How would you characterise the voice?", "Is he speaking softly?", "Does her voice tremble?",
        "What does it sound like?", "Is the speech rate fast?", "describe the vocal tone",
    ),
    "words": (
        "Which words give it away?", "What was said exactly that matters?", "What does the transcript tell you?",
        "Is there anything emotional in the text?", "Does the choice of words matter?",
        "What about the language they use?",
    ),
    "agreement": (
        "Do the words match the facial expression?", "Does the voice agree with what is said?",
        "Are there contradictory signals?", "Is the person being ironic?",
        "Do all cues point in the same direction?",
    ),
    "how_sure": (
        "How reliable is your answer?", "Are you confident?", "How likely is it that this is correct?",
        "Do you have any doubts?", "What is the confidence level?",
    ),
    "change_mind": (
        "What would make you change the answer?", "What information is lacking?",
        "Under which circumstances would you be wrong?", "What could prove you wrong?",
    ),
    "how_strong": (
        "Is the emotion weak or strong?", "How strongly is it shown?", "To what degree is this felt?",
        "How extreme is the anger?",
    ),
    "others": (
        "Could there be a different emotion?", "Name other candidates.", "What are other possible readings?",
        "Which emotion comes second?",
    ),
    "when": (
        "When exactly does it show?", "At what moment does the expression change?", "Give timestamps.",
        "Does the emotion change during the video?", "How does it end?",
    ),
    "one_word": ("Just one word.", "Tell me the emotion in one word.", "Single-word answer please."),
    "as_json": ("Respond in JSON format.", "I need a JSON object.", "Return JSON"),
    "unknowable": (
        "What is his name?", "How much does she earn?", "Does he have autism?", "Which country is this?",
        "Is she pregnant?", "What is the meaning of life?", "Who is the president?", "Is he guilty?",
        "What car do they drive?", "What will the person do tomorrow?", "Recommend me a good restaurant.",
        "Are they in love with each other?",
    ),
}  # fmt: skip


def wrong_ones(phrasings: dict[str, tuple[str, ...]]) -> list[tuple[str, str, str]]:
    return [
        (question, kind, kinds_for(question)[0])
        for kind, questions in phrasings.items()
        for question in questions
        if kinds_for(question)[0] != kind
    ]


def test_held_out_phrasings_are_answered_in_their_kind() -> None:
    total = sum(map(len, HELD_OUT.values()))
    assert total >= 60
    # nano's likelihood alone is right in about a fifth of them
    assert len(wrong_ones(HELD_OUT)) <= 0.25 * total, wrong_ones(HELD_OUT)
    assert len(wrong_ones(LOOKED_AT)) <= 0.1 * sum(map(len, LOOKED_AT.values())), wrong_ones(LOOKED_AT)


def test_held_out_phrasings_are_really_held_out() -> None:
    def plain(text: str) -> str:
        return re.sub(r"[^a-z0-9 ]", "", text.lower())

    known = {plain(question) for kind in KINDS.values() for question in kind.questions}
    asked = {plain(question) for questions in HELD_OUT.values() for question in questions}
    assert not known & asked
    assert not asked & {plain(question) for questions in LOOKED_AT.values() for question in questions}


@pytest.mark.parametrize("kind", list(KINDS))
def test_every_phrasing_of_the_grammar_wants_its_own_kind(kind: str) -> None:
    for question in KINDS[kind].questions:
        for written in (question, question.lower(), question.rstrip("?."), f"Please tell me: {question}"):
            assert kind in kinds_for(written), written


def test_the_face_is_never_answered_with_the_words() -> None:
    assert kinds_for("what does the face say") == ("face",)


def test_shares_sum_to_one_and_name_every_kind() -> None:
    for question in ("Why?", "", "???", "привет", "x" * 2000):
        found = shares(question)
        assert set(found) == set(KINDS)
        assert sum(found.values()) == pytest.approx(1.0)
        assert kinds_for(question)
