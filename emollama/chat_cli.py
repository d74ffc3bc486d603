"""`emollama chat`: questions about one clip in the terminal, answered as the service answers them.

A line that begins with / is a command. What a caller wrote or a clip holds is shown as plain text, never as markup.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from emollama.conversation import Conversation, Reading, ReplyOptions, Turn, conversation_of
from emollama.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from emollama.analyze import Analyzer
    from emollama.types import Transcript

HELP = """/labels    the scores of the emotions
/evidence  what was seen, heard and read, and when
/help      this list
/quit      leave (so does Ctrl-D)"""


class ChatSession:
    """One clip, and what was asked about it so far."""

    def __init__(self, analyzer: Analyzer, clip: Path, *, transcript: Transcript | None = None) -> None:
        if not clip.is_file():
            raise InputError(f"no clip at {clip}", field="clip")
        self._conversation: Conversation = conversation_of(analyzer)
        self.reading: Reading = self._conversation.read(clip, name=clip.name, transcript=transcript)
        self.turns: list[Turn] = []

    def answer(self, question: str, console: Console) -> str:
        """Write the answer as it is decoded, and remember it."""
        options = ReplyOptions()
        asked = self._conversation.ask(self.reading, question, turns=self.turns, options=options)
        if asked.num_dropped:
            console.print(f"(the first {asked.num_dropped} questions no longer fit and were left out)", style="dim")
        pieces = []
        for said in self._conversation.replies(asked, options):
            pieces.append(said.text)
            console.out(said.text, end="", highlight=False)
        console.out("")
        text = "".join(pieces)
        self.turns.append(Turn(question=question, answer=text))
        return text

    def labels(self) -> str:
        scores = sorted(self.reading.seen.emotion.scores.items(), key=lambda item: -item[1])
        return "\n".join(f"{probability:6.1%}  {name}" for name, probability in scores)

    def evidence(self) -> str:
        items = [item for found in self.reading.seen.evidence.values() for item in found]
        lines = [f"{item.start:6.1f} to {item.end:.1f} s  {item.cue}" for item in items]
        return "\n".join(lines) or "Nothing in the clip was read."


def run(session: ChatSession, console: Console) -> None:
    """Ask for questions until the end of the input, /quit or Ctrl-C at the prompt; Ctrl-C in an answer ends that."""
    for warning in session.reading.seen.warnings:
        console.out(f"! {warning}", style="dark_orange", highlight=False)
    while True:
        try:
            line = console.input("> ").strip()
        except (EOFError, KeyboardInterrupt):
            console.out("")
            return
        if line in ("/quit", "/exit"):
            return
        if line.startswith("/"):
            shown = {"/labels": session.labels, "/evidence": session.evidence, "/help": lambda: HELP}.get(line)
            console.out(shown() if shown is not None else f"no command {line[:40]}\n{HELP}", highlight=False)
        elif line:
            try:
                session.answer(line, console)
            except InputError as error:
                console.out(str(error), style="red", highlight=False)
            except KeyboardInterrupt:
                console.out("\n(stopped)", style="dim", highlight=False)
