"""Many texts to one program: `use` is followed, and every name is checked before anything runs.

Statements run top to bottom and names are bound once, so one walk suffices, and afterwards a name
means the same thing wherever it is evaluated. Used files share that one scope: the alternative, a
scope for each file, would need imports and exports, and a zoo of task vectors needs neither.
"""

import difflib
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from taskalg.errors import (
    LISTED,
    ExpressionError,
    Source,
    Span,
    UnknownNameError,
    listed,
    quoted,
)
from taskalg.language.builder import MAX_NESTING
from taskalg.language.characters import name_character
from taskalg.language.nodes import (
    Binding,
    Call,
    Definition,
    Name,
    Node,
    Recipe,
    String,
    Use,
    children,
)
from taskalg.language.parser import parse

# Possessive, and only from the start of a word: linear in a name of a million characters.
_HYPHENATED = re.compile(r"(?<!\w)[^\W\d]\w*+(?:-\w++)+")

# What a `use` means, given the files that are being used now: a source, or None when it was read
# before and has been used up.
Read = Callable[[String, tuple[Source, ...]], Source | None]


@dataclass(frozen=True)
class Program:
    """A recipe with everything it uses, in the order in which it runs."""

    statements: tuple[Binding | Definition, ...]  # no `use` is left
    expression: Node | None  # of the recipe itself; used files have none


@dataclass
class _Scope:
    """What is known at a point of the walk."""

    builtins: Collection[str]  # functions of the operator table
    given: Collection[str]  # names bound from outside, before the first statement
    bound: dict[str, Span] = field(default_factory=dict)  # bindings and where
    functions: dict[str, Definition] = field(default_factory=dict)
    later: dict[str, Span] = field(default_factory=dict)  # everything bound anywhere
    free: bool = False  # an unknown name is a checkpoint nobody declared (`equal` without files)


def link(
    recipe: Recipe,
    *,
    builtins: Collection[str],
    given: Collection[str] = (),
    read: Read | None = None,
    free: bool = False,
) -> Program:
    """Follow `use` and check every name.

    Args:
        recipe: the text that has the expression.
        builtins: names of the built-in functions.
        given: names bound from outside (the command line); these come first.
        read: returns the source that a `use` names, or None when it was read before.
        free: whether names that nothing binds stand for undeclared checkpoints.

    Raises:
        ExpressionError: a name is bound twice, hides a built-in, recurs, or is not bound above its
            use; a used file has an expression, or uses itself.
    """
    statements = tuple(_flatten(recipe, read, ()))
    scope = _Scope(builtins, given, free=free)
    scope.later = {s.name: s.name_span for s in reversed(statements)}
    for statement in statements:
        _check_statement(statement, scope)
    if recipe.expression is not None:
        _check_names(recipe.expression, scope)
    return Program(statements, recipe.expression)


def _flatten(
    recipe: Recipe, read: Read | None, above: tuple[Span, ...]
) -> list[Binding | Definition]:
    statements: list[Binding | Definition] = []
    for statement in recipe.statements:
        if isinstance(statement, Use):
            statements += _used(statement, read, above)
        else:
            statements.append(statement)
    return statements


def _used(statement: Use, read: Read | None, above: tuple[Span, ...]) -> list[Binding | Definition]:
    if read is None:
        raise ExpressionError("'use' needs a file to start from", statement.span)
    if len(above) >= MAX_NESTING:
        raise ExpressionError(f"files use one another more than {MAX_NESTING} deep", statement.span)
    source = read(statement.path, (*(span.source for span in above), statement.span.source))
    if source is None:
        return []
    used = parse(source)
    if used.expression is not None:
        raise ExpressionError(
            f"{quoted(source.name)} is used, so it cannot have an expression of its own",
            used.expression.span,
            also=[("used here", statement.span)],
            help="give the expression a name",
        )
    return _flatten(used, read, (*above, statement.span))


def _check_statement(statement: Binding | Definition, scope: _Scope) -> None:
    _check_new(statement, scope)
    if isinstance(statement, Binding):
        _check_names(statement.value, scope)
        scope.bound[statement.name] = statement.name_span
        return
    used: set[str] = set()
    parameters = {parameter.name: parameter for parameter in statement.parameters}
    _check_names(statement.body, scope, statement, used)
    for name, parameter in parameters.items():
        if name not in used:
            raise ExpressionError(
                f"parameter {quoted(name)} is not used",
                parameter.span,
                also=[("in", statement.body.span)],
                help="delete it, or use it",
            )
    scope.functions[statement.name] = statement


def _check_new(statement: Binding | Definition, scope: _Scope) -> None:
    name, span = statement.name, statement.name_span
    hidden = [p for p in getattr(statement, "parameters", ()) if p.name in scope.builtins]
    for taken, where in [(name, span), *((p.name, p.span) for p in hidden)]:
        if taken in scope.builtins:
            raise ExpressionError(
                f"{quoted(taken)} is a built-in function", where, help="choose another name"
            )
    earlier = scope.bound.get(name)
    if name in scope.functions:
        earlier = scope.functions[name].name_span
    if earlier is not None:
        raise ExpressionError(
            f"{quoted(name)} is bound twice",
            span,
            also=[("first bound here", earlier)],
            help="choose another name, or delete one of the two",
        )
    if isinstance(statement, Definition) and name in scope.given:
        raise ExpressionError(
            f"{quoted(name)} is a function here, but a value was given for it", span
        )


def _check_names(
    node: Node, scope: _Scope, inside: Definition | None = None, used: set[str] | None = None
) -> None:
    """Check every name in `node`; collect in `used` the parameters of `inside` that occur."""
    parameters = {p.name for p in inside.parameters} if inside else set()
    stack: list[Node] = [node]
    while stack:
        current = stack.pop()
        stack += reversed(children(current))
        if isinstance(current, Name):
            if current.name in parameters and used is not None:
                used.add(current.name)
            elif not _is_value(current.name, scope):
                raise _unknown(current, scope, parameters)
        elif isinstance(current, Call):
            _check_function(current, scope, inside)


def _is_value(name: str, scope: _Scope) -> bool:
    if name in scope.bound or name in scope.given:
        return True
    taken = (scope.functions, scope.builtins, scope.later)
    return scope.free and not any(name in names for names in taken)


def _check_function(call: Call, scope: _Scope, inside: Definition | None) -> None:
    name = call.function
    if inside is not None and name == inside.name:
        raise ExpressionError(
            f"{quoted(name)} calls itself",
            call.function_span,
            also=[("defined here", inside.name_span)],
            note="a function is one line, without recursion",
        )
    if name in scope.functions or name in scope.builtins:
        return
    if name in scope.bound or name in scope.given:
        raise ExpressionError(
            f"{quoted(name)} is not a function",
            call.function_span,
            also=[("bound here", scope.bound[name])] if name in scope.bound else [],
            help=f"write {name}*(…) to multiply",
        )
    if name in scope.later:
        raise _below(name, call.function_span, scope)
    raise UnknownNameError(
        f"no function is named {quoted(name)}",
        call.function_span,
        help=_suggest_function(name, scope),
    )


def _below(name: str, span: Span, scope: _Scope) -> UnknownNameError:
    return UnknownNameError(
        f"{quoted(name)} is used above its binding",
        span,
        also=[("bound here", scope.later[name])],
        help="move the binding up",
    )


def _unknown(node: Name, scope: _Scope, parameters: set[str]) -> UnknownNameError:
    name = node.name
    if name in scope.functions or name in scope.builtins:
        return UnknownNameError(
            f"{quoted(name)} is a function", node.span, help=f"call it: {name}(…)"
        )
    if name in scope.later:
        return _below(name, node.span, scope)
    known = sorted({*scope.bound, *scope.given, *parameters})
    odd = [name_character(char) for char in dict.fromkeys(name) if not char.isascii()]
    return UnknownNameError(
        f"no checkpoint is named {quoted(name)}",
        node.span,
        note=f"it has {listed(odd)}" if odd else None,
        help=_hyphenated(node, known) or _suggest(name, known, "names"),
    )


def _hyphenated(node: Name, known: list[str]) -> str | None:
    """Explain `gpt2-large`: as typed it is a subtraction."""
    text = node.span.source.text
    for found in _HYPHENATED.finditer(text):
        if found.start() <= node.span.start and node.span.end <= found.end():
            joined = found.group().replace("-", "_")
            if joined not in known and not set(known).isdisjoint(found.group().split("-")):
                return None  # then it is meant as a subtraction
            return f"{found.group()} is a subtraction; did you mean {quoted(joined)}?" + (
                "" if joined in known else " (bind that name)"
            )
    return None


def _suggest_function(name: str, scope: _Scope) -> str:
    near = difflib.get_close_matches(name, sorted({*scope.functions, *scope.builtins}), n=1)
    start = f"did you mean {quoted(near[0])}? " if near else ""
    return f"{start}taskalg ops lists the built-in functions"


def _suggest(name: str, known: list[str], what: str) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    start = f"did you mean {quoted(near[0])}? " if near else ""
    if name == "base":
        return "bind it with --base PATH, or declare it with --model base"
    if not known:
        return "bind it: --base PATH, --task NAME=PATH, --model NAME=PATH or --set NAME=VALUE"
    shown = ", ".join(known) if len(known) <= LISTED else listed(known)
    return f"{start}known {what}: {shown}"
