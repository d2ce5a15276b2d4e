"""A call's arguments, put into the order of the function's parameters."""

from taskalg.algebra.operators import Operator
from taskalg.errors import ExpressionError, quoted
from taskalg.language.nodes import Argument, Call, Node, String

_OPTIONAL = {("task", "base")}  # the program's `base` when it is left out


def place(node: Call, signature: Operator) -> tuple[Node | String | None, ...]:
    """Match arguments with parameters, by position or by keyword.

    Returns:
        A value for each parameter and keyword of the signature, in their order, None for one that
        is left out; then those that a variadic function takes beyond.

    Raises:
        ExpressionError: too few, too many, unknown or repeated arguments.
    """
    parameters = signature.parameters
    known = (*parameters, *signature.keywords)
    placed: dict[str, Argument] = {}
    more: list[Argument] = []
    for index, argument in enumerate(node.arguments):
        name = argument.keyword or (parameters[index] if index < len(parameters) else None)
        if name is None and signature.variadic:
            more.append(argument)
        elif name is None or name not in known or name in placed:
            raise _misplaced(argument, placed, signature)
        else:
            placed[name] = argument
    missing = [n for n in parameters if n not in placed and (node.function, n) not in _OPTIONAL]
    if missing:
        raise ExpressionError(
            f"{node.function} needs another argument: {missing[0]}",
            node.span,
            help=f"write {signature.usage}",
        )
    in_order = [placed[name].value if name in placed else None for name in known]
    return (*in_order, *(argument.value for argument in more))


def _misplaced(
    argument: Argument, placed: dict[str, Argument], signature: Operator
) -> ExpressionError:
    if argument.keyword is None:
        message = f"{signature.name} is given too many arguments"
    elif argument.keyword in placed:
        message = f"{signature.name} is given {quoted(argument.keyword)} twice"
    else:
        message = f"{signature.name} has no argument {quoted(argument.keyword)}"
    return ExpressionError(message, argument.span, help=f"write {signature.usage}")
