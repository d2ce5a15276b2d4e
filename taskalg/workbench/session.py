"""A session: text in, answers out. No terminal is in it, so a notebook and a pipe share it."""

from collections.abc import Callable, Iterator, Mapping

from taskalg.checkpoints.base import Opening
from taskalg.compiler import Bindings, read_recipe
from taskalg.errors import Source, TaskalgError, UnknownNameError, UsageError
from taskalg.language.parser import parse
from taskalg.recipe import Recipe
from taskalg.workbench import pieces
from taskalg.workbench.answer import Answer
from taskalg.workbench.commands import COMMANDS, run_command
from taskalg.workbench.completion import Offer, offers
from taskalg.workbench.making import load_recipe
from taskalg.workbench.stating import bind, loaded, show
from taskalg.workbench.words import in_session
from taskalg.workbench.workspace import Working, Workspace, unseen

_MEANT = ("help", "exit", "quit")  # commands, also without their colon


class Session:
    """Inputs and their answers, over names that stay.

    An input is a statement, an expression, or a command that starts with a colon. Names behave as
    cells of a spreadsheet do: a new binding takes the place of the old one, and what depends on it
    follows. An error changes nothing. For one thread at a time.
    """

    def __init__(
        self,
        bindings: Bindings | None = None,
        *,
        opening: Opening | None = None,
        working: Working = unseen,
        columns: Callable[[], int] = lambda: 80,
    ) -> None:
        """Begin.

        Args:
            bindings: names bound from outside.
            opening: what is allowed when checkpoints are opened.
            working: makes what shows the progress of one piece of work.
            columns: tells how wide a line may be.
        """
        self._workspace = Workspace(bindings, opening=opening, working=working, columns=columns)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of values, sorted."""
        return self._workspace.definitions.names

    def start(self, file: str | None = None) -> Answer:
        """Read a recipe file, if there is one, and open the headers of all checkpoints.

        What was bound from outside replaces what the file binds to the same names.

        Raises:
            TaskalgError: the file cannot be read, or makes no sense.
        """
        workspace = self._workspace
        given = workspace.definitions.given
        if file is None:
            return loaded(workspace, sorted(given))
        return load_recipe(workspace, read_recipe(file), given)

    def give(self, recipes: Mapping[str, Recipe]) -> None:
        """Let names stand for recipes made elsewhere; what the session binds itself stays."""
        definitions = self._workspace.definitions
        new = {name: one for name, one in recipes.items() if definitions.statement(name) is None}
        self._workspace.definitions = definitions.giving({n: one.value for n, one in new.items()})
        for recipe in new.values():  # files that the user let it open need no second permission
            self._workspace.opened.update(recipe.opened)

    def answer(self, text: str) -> Answer:
        """Answer one input. Whatever is wrong with it is an answer, too."""
        workspace = self._workspace
        workspace.inputs.append(text)
        source = Source(f"<{len(workspace.inputs)}>", text)
        try:
            if pieces.is_command(text):
                return run_command(workspace, source)
            return self._answer(source)
        except TaskalgError as error:
            word = text.strip().removesuffix("()")
            if isinstance(error, UnknownNameError) and word in _MEANT:
                return run_command(workspace, Source(source.name, f":{word}"))
            error.help = _help(error, text)
            return Answer.of_error(error)

    def answers(self, text: str) -> Iterator[Answer]:
        """Answer several inputs, one after the other, up to the first that is an error."""
        for one in pieces.inputs(text):
            answer = self.answer(one)
            yield answer
            if answer.error is not None or answer.leaves:
                return

    def is_complete(self, text: str) -> bool:
        """Tell whether an input needs no further line: every bracket is closed."""
        return pieces.is_command(text) or pieces.is_complete(text)

    def offers(self, before: str) -> list[Offer]:
        """Return what could stand at the end of a text."""
        return offers(self._workspace, before)

    def recipe(self, text: str) -> Recipe:
        """Compile an expression in the session's names.

        Raises:
            TaskalgError: it makes no sense.
        """
        expression = parse(Source("<expr>", text)).expression
        if expression is None:
            raise UsageError("there is no expression", help='type one, like "base + 0.4*toxic"')
        return self._workspace.recipe(expression)

    def _answer(self, source: Source) -> Answer:
        program = parse(source)
        statements = self._workspace.flattened(program)
        answer = bind(self._workspace, statements) if statements else Answer("")
        if program.expression is None:
            return answer
        return show(self._workspace, program.expression)


def _help(error: TaskalgError, text: str) -> str | None:
    """Return the one thing to type that would help, in a session's words."""
    first = text.split(maxsplit=1)[0] if text.strip() else ""
    if isinstance(error, UnknownNameError) and any(first == one.name for one in COMMANDS):
        return f"commands start with a colon: :{first}"
    return None if error.help is None else in_session(error.help)
