"""What a session knows: its names, the headers it has opened, and what it showed last."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, cast

from taskalg.algebra.coefficient import Coefficient
from taskalg.algebra.operators import BUILTINS
from taskalg.algebra.weighted_sum import WeightedSum, references
from taskalg.checkpoints.base import Checkpoint, Opening, check_unchanged
from taskalg.compiler import Bindings, Reader
from taskalg.errors import CheckpointError, Source, Span
from taskalg.expression import Opened, Written, opened_as
from taskalg.language.nodes import Name, Node, Use
from taskalg.language.nodes import Recipe as Program
from taskalg.language.printer import print_recipe
from taskalg.language.recipe import link
from taskalg.recipe import Recipe
from taskalg.running.stream import Progress
from taskalg.sweeping.values import Sweep
from taskalg.workbench.definitions import Definitions, Statement
from taskalg.workbench.describing import checkpoint_name

if TYPE_CHECKING:
    from taskalg.measuring.answers import Answers

Showing = Callable[[Progress], None]
Working = Callable[[], AbstractContextManager[Showing]]  # shows one piece of work as it goes on


@contextmanager
def unseen() -> Iterator[Showing]:
    """Show nothing."""
    yield lambda progress: None


class Workspace:
    """The state of a session. Nothing changes when something fails."""

    def __init__(
        self,
        bindings: Bindings | None = None,
        *,
        opening: Opening | None = None,
        working: Working = unseen,
        columns: Callable[[], int] = lambda: 80,
    ) -> None:
        given = {} if bindings is None else bindings.values
        self.definitions = Definitions(given=given)
        self.opening = opening or Opening()
        self.opened: Opened = {}  # headers, read once, whatever mentions them
        self.working = working
        self.columns = columns  # how wide a line may be
        self.last: Node | None = None  # the last sum that was shown
        self.inputs: list[str] = []
        self.swept: Sweep | None = None  # the last sweep

    @cached_property
    def answers(self) -> "Answers":
        """What measures scalars, and keeps what it measured; made when it is first needed."""
        from taskalg.measuring.answers import Answers

        return Answers()

    def recipe(self, expression: Node, definitions: Definitions | None = None) -> Recipe:
        """Compile an expression in the session's names, or in others.

        Raises:
            ExpressionError: something is wrong with it.
        """
        known = self.definitions if definitions is None else definitions
        evaluation = known.evaluated(expression)
        part = known.needed(expression)
        text = print_recipe(Program(part.statements, expression, Source("<session>", "")))
        scalars = {n: str(v) for n, v in part.given.items() if isinstance(v, Coefficient)}
        recipe = Recipe.of_program(
            evaluation,
            written=Written(Source("<session>", text), None, scalars),
            opening=self.opening,
            opened=self.opened,
        )
        self._forget_changed(recipe)
        return recipe

    def flattened(self, program: Program) -> tuple[Statement, ...]:
        """Return a recipe's statements, and in the place of each `use` those of its file.

        Raises:
            ExpressionError: a name is bound twice in it, or it could not stand alone.
            CheckpointError: a file cannot be read.
        """
        if program.source.folder is None and not _has_use(program):
            return cast(tuple[Statement, ...], program.statements)
        alone = Program(program.statements, None, program.source)
        source = None if program.source.folder is None else program.source
        return link(alone, builtins=BUILTINS, read=Reader(source).read, free=True).statements

    def checkpoints(self) -> dict[str, Recipe]:
        """Return the checkpoints that have names, by name; an expression is none."""
        values = self.definitions.values
        found = {
            name: Recipe(value, base=values.get("base"), opening=self.opening, opened=self.opened)
            for name, value in values.items()
            if checkpoint_name(value) == name
        }
        for recipe in found.values():
            self._forget_changed(recipe)
        return dict(sorted(found.items()))

    def _forget_changed(self, recipe: Recipe) -> None:
        """Forget the headers of files that are no longer what they were; they are read again."""
        sums = (one for one in (recipe.value, recipe.base) if isinstance(one, WeightedSum))
        for reference in references(sums):
            found = self.opened.get(opened_as(reference))
            if found is not None and _is_changed(found):
                del self.opened[opened_as(reference)]


def name_node(name: str) -> Node:
    """Return a name as an expression."""
    return Name(name, Span(Source("<session>", name), 0, len(name)))


def _has_use(program: Program) -> bool:
    return any(isinstance(one, Use) for one in program.statements)


def _is_changed(checkpoint: Checkpoint) -> bool:
    try:
        check_unchanged(checkpoint)
    except CheckpointError:
        return True
    return False
