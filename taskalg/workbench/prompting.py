"""A line editor for a session, by prompt_toolkit: completion, colors, history, several lines."""

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.history import FileHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.lexers import Lexer
from prompt_toolkit.styles import Style

from taskalg.workbench.coloring import colored
from taskalg.workbench.session import Session

_STYLE = Style.from_dict(
    {
        "command": "bold",
        "comment": "ansibrightblack",
        "function": "ansiblue",
        "number": "ansicyan",
        "open": "ansired",
        "string": "ansigreen",
    }
)


def line_editor(session: Session, history: Path, *, prompt: str, more: str) -> "PromptSession[str]":
    """Make an editor; its `prompt` asks for one input.

    Args:
        session: says what completes, and whether an input is complete.
        history: a file, made when the first input is kept; nothing is kept where none can be.
        prompt: before the first line.
        more: before the others.
    """
    return PromptSession(
        prompt,
        multiline=True,
        prompt_continuation=more,
        completer=_Names(session),
        complete_while_typing=False,
        lexer=_Colors(),
        style=_STYLE,
        key_bindings=_keys(session),
        history=_Kept(history),
    )


def _keys(session: Session) -> KeyBindings:
    keys = KeyBindings()

    @keys.add("enter")
    def enter(event: KeyPressEvent) -> None:
        """End the input when it is complete, or with an empty line."""
        buffer = event.current_buffer
        if session.is_complete(buffer.text) or buffer.text.endswith("\n"):
            buffer.validate_and_handle()
        else:
            buffer.newline(copy_margin=True)

    return keys


class _Names(Completer):
    def __init__(self, session: Session) -> None:
        self._session = session

    def get_completions(self, document: Document, event: CompleteEvent) -> Iterable[Completion]:
        """Return what could stand at the cursor."""
        for offer in self._session.offers(document.text_before_cursor):
            yield Completion(offer.text, -offer.replaces, display_meta=offer.meta)


class _Colors(Lexer):
    def lex_document(self, document: Document) -> Callable[[int], StyleAndTextTuples]:
        """Return the colors of a line by its number."""
        lines = colored(document.text)
        return lambda number: [(f"class:{style}", text) for style, text in lines[number]]


class _Kept(FileHistory):
    """Inputs in a file that only its owner can read; none where it cannot be."""

    def load_history_strings(self) -> Iterable[str]:
        """Return earlier inputs, the last one first."""
        try:
            return list(super().load_history_strings())
        except OSError:
            return []

    def store_string(self, string: str) -> None:
        """Keep an input."""
        with suppress(OSError):
            path = Path(os.fsdecode(self.filename))
            path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
            super().store_string(string)
