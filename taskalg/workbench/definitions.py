"""The names of a session: statements in an order in which each uses only what is above it.

A session is a recipe that is never finished, with one difference: a new binding takes the place of
the old one, as a cell's does in a spreadsheet. So a name has one definition at a time, what depends
on it follows, and whatever would leave the others without a meaning is refused before anything
changes. The alternative, statements that run once as in Python, would keep values whose recipe
nobody can write down any more.
"""

import heapq
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from graphlib import CycleError, TopologicalSorter

from taskalg.algebra.evaluation import Evaluation, evaluate
from taskalg.algebra.operators import BUILTINS
from taskalg.algebra.simplify import simplify
from taskalg.algebra.weighted_sum import Value, WeightedSum
from taskalg.errors import ExpressionError, Source, Span, UsageError, listed, quoted
from taskalg.language.nodes import Binding, Call, Definition, Name, Node, Recipe, walk
from taskalg.language.printer import print_node
from taskalg.language.recipe import Program, link

Statement = Binding | Definition
_NOWHERE = Source("<session>", "")


@dataclass(frozen=True)
class Definitions:
    """What every name stands for."""

    statements: tuple[Statement, ...] = ()  # each uses only what is above it, or is given
    given: Mapping[str, Value] = field(default_factory=dict)  # from outside; no statement's names

    @property
    def names(self) -> tuple[str, ...]:
        """Names of values, sorted."""
        bound = [one.name for one in self.statements if isinstance(one, Binding)]
        return tuple(sorted({*bound, *self.given}))

    @property
    def bound(self) -> frozenset[str]:
        """All names, of functions too."""
        return frozenset({*(one.name for one in self.statements), *self.given})

    @property
    def functions(self) -> tuple[Definition, ...]:
        """Functions that were defined."""
        return tuple(one for one in self.statements if isinstance(one, Definition))

    @cached_property
    def values(self) -> Mapping[str, Value]:
        """What every name stands for, on paper: no file is opened."""
        return simplify(Program(self.statements, None), self.given)[1].values

    def statement(self, name: str) -> Statement | None:
        """Return the statement that binds a name; None when it is given, or not bound."""
        return next((one for one in self.statements if one.name == name), None)

    def replacing(self, new: Sequence[Statement]) -> "Definitions":
        """Return definitions with new statements in the place of those that bind the same names.

        Raises:
            ExpressionError: a name would depend on itself, or something would lose its meaning.
        """
        by_name = {one.name: one for one in (*self.statements, *new)}  # the old one's place
        given = {name: value for name, value in self.given.items() if name not in by_name}
        made = Definitions(_ordered(by_name, [one.name for one in new]), given)
        try:
            made._check(None)
            made.values  # noqa: B018 - evaluated now, so that what does not fit is refused
        except ExpressionError as error:
            raise self._blamed(error, [one.name for one in new]) from None
        return made

    def without(self, name: str) -> "Definitions":
        """Return definitions without a name.

        Raises:
            UsageError: it is not bound, or something depends on it.
        """
        if name not in self.bound:
            raise UsageError(f"{quoted(name)} is not bound", help=":let and :models list names")
        follow = self.followers([name])
        if follow:
            depend = f"{listed(follow)} depend{'s' if len(follow) == 1 else ''} on it"
            raise UsageError(f"{quoted(name)} stays: {depend}", help=f":forget {follow[-1]} first")
        return Definitions(
            tuple(one for one in self.statements if one.name != name),
            {other: value for other, value in self.given.items() if other != name},
        )

    def giving(self, given: Mapping[str, Value]) -> "Definitions":
        """Return definitions with values from outside in the place of what had their names."""
        rest = tuple(one for one in self.statements if one.name not in given)
        made = Definitions(rest, {**self.given, **given})
        made._check(None)
        made.values  # noqa: B018 - likewise
        return made

    def evaluated(self, expression: Node) -> Evaluation:
        """Evaluate an expression in these names; only what it uses takes part.

        Raises:
            ExpressionError: a name is unknown, or kinds do not fit.
        """
        part = self.needed(expression)
        try:
            part._check(expression)
        except ExpressionError:
            self._check(expression)  # which knows more names to suggest
            raise
        return evaluate(Program(part.statements, expression), part.given)

    def needed(self, expression: Node) -> "Definitions":
        """Return the definitions that an expression uses, also through others."""
        statements = {one.name: one for one in self.statements}
        waiting, found = _needed_by_node(expression), set[str]()
        while waiting:
            name = waiting.pop()
            found.add(name)
            if name in statements:
                waiting |= _needed_by(statements[name]) - found
            elif name in self.given and _is_against_base(self.given[name]):
                waiting |= {"base"} - found
        return Definitions(
            tuple(one for one in self.statements if one.name in found),
            {name: value for name, value in self.given.items() if name in found},
        )

    def followers(self, names: Collection[str]) -> tuple[str, ...]:
        """Return the names that depend on some names, in order."""
        changed = set(names)
        given = [n for n, value in self.given.items() if _is_against_base(value)]
        found = given if "base" in changed else []
        changed |= set(found)
        for one in self.statements:
            if one.name not in changed and not changed.isdisjoint(_needed_by(one)):
                changed.add(one.name)
                found.append(one.name)
        return tuple(found)

    def _blamed(self, error: ExpressionError, new: Collection[str]) -> ExpressionError:
        """Say that names keep what they have when it is another one that would break."""
        broken = next((one for one in self.statements if _is_in(error.span, one)), None)
        stay = [name for name in new if name in self.bound]
        if stay and broken is not None and broken.name not in new:
            error.note = error.message
            stays = "stays as it was" if len(stay) == 1 else "stay as they were"
            error.message = f"{listed(stay)} {stays}: {broken.name} depends on it, and would break"
            error.help = None
        return error

    def _check(self, expression: Node | None) -> None:
        whole = Recipe(self.statements, expression, _NOWHERE)
        link(whole, builtins=BUILTINS, given=self.given)


def definition_text(statement: Statement) -> str:
    """Return the right side of a statement, and a function's left side too."""
    if isinstance(statement, Binding):
        return print_node(statement.value)
    return f"{signature(statement)} = {print_node(statement.body)}"


def signature(function: Definition) -> str:
    """Return how a function is called."""
    return f"{function.name}({', '.join(p.name for p in function.parameters)})"


def _ordered(by_name: Mapping[str, Statement], new: Collection[str]) -> tuple[Statement, ...]:
    """Move statements down until each stands below what it uses; the others keep their places.

    Raises:
        ExpressionError: a new one depends on itself.
    """
    place = {name: index for index, name in enumerate(by_name)}
    sorter = TopologicalSorter({n: _uses(one) & place.keys() for n, one in by_name.items()})
    try:
        sorter.prepare()
    except CycleError as error:
        raise _circular(error.args[1], by_name, new) from None
    ready: list[tuple[int, str]] = []
    order: list[Statement] = []
    while sorter.is_active():
        for name in sorter.get_ready():
            heapq.heappush(ready, (place[name], name))
        _, name = heapq.heappop(ready)
        order.append(by_name[name])
        sorter.done(name)
    return tuple(order)


def _circular(
    cycle: Sequence[str], by_name: Mapping[str, Statement], new: Collection[str]
) -> ExpressionError:
    name = next(one for one in cycle if one in new)
    around = list(reversed(cycle[:-1]))  # each uses the next
    turn = around.index(name)
    return ExpressionError(
        f"{quoted(name)} would depend on itself",
        by_name[name].name_span,
        note=" -> ".join([*around[turn:], *around[:turn], name]),
        help="choose another name for the new value",
    )


def _is_in(span: Span | None, statement: Statement) -> bool:
    """Tell whether a place in a text is in a statement."""
    whole = statement.span
    return (
        span is not None
        and span.source == whole.source
        and whole.start <= span.start
        and span.end <= whole.end
    )


def _body(statement: Statement) -> Node:
    return statement.value if isinstance(statement, Binding) else statement.body


def _uses(statement: Statement) -> set[str]:
    """Return the names that a statement mentions, of values and of functions."""
    parameters = getattr(statement, "parameters", ())
    return set(_mentioned(_body(statement))) - {parameter.name for parameter in parameters}


def _mentioned(node: Node) -> Iterator[str]:
    for found in walk(node):
        if isinstance(found, Name):
            yield found.name
        elif isinstance(found, Call):
            yield found.function


def _needed_by(statement: Statement) -> set[str]:
    """Return what a statement uses, also the base of its tasks, which may stand below it."""
    base = {"base"} if _implies_base(_body(statement)) else set[str]()
    return _uses(statement) | base


def _needed_by_node(node: Node) -> set[str]:
    return {*_mentioned(node), *(("base",) if _implies_base(node) else ())}


def _implies_base(node: Node) -> bool:
    """Tell whether a task does not say what it is taken against."""
    calls = (one for one in walk(node) if isinstance(one, Call) and one.function == "task")
    return any(not _says_base(call) for call in calls)


def _says_base(task: Call) -> bool:
    plain = [one for one in task.arguments if one.keyword is None]
    return len(plain) > 1 or any(one.keyword == "base" for one in task.arguments)


def _is_against_base(value: Value) -> bool:
    """Tell whether a value from outside is a task that does not say against what."""
    if not isinstance(value, WeightedSum):
        return False
    return any(one.sort == "task" and one.base is None for one in value.terms)
