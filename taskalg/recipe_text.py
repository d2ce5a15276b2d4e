"""A sum as the text of a recipe file: what it is made of, its scalars, and one expression.

The canonical sum is written, not what a user typed: values have been learned since, and what was
typed may be spread over several files. Names, bases and scalars keep theirs.
"""

from collections.abc import Mapping
from fractions import Fraction

from taskalg.algebra.canonical import Canonical, sort_key
from taskalg.algebra.coefficient import Coefficient
from taskalg.algebra.monomial import Monomial, in_order, join_terms
from taskalg.algebra.rationals import decimal_text
from taskalg.algebra.weighted_sum import WeightedSum
from taskalg.errors import UsageError, quoted
from taskalg.planning.resolve import Operand, Resolved

_WIDTH = 100  # of a line; a longer sum gets one for each of its terms


def recipe_text(total: Resolved, scalars: Mapping[str, Coefficient]) -> str:
    """Write a sum as a recipe that means the same.

    Paths are those that were opened, so a relative one is relative to where this program runs. For
    a checkpoint in memory there is a comment that says how to bind its name.

    Args:
        total: the sum, with symbols for its scalars.
        scalars: what the symbols stand for.
    """
    bases = {**total.against, **total.bases}
    operands = sorted((operand for operand, _ in total.terms), key=lambda o: _depth(o, bases))
    lines = [_checkpoint_line(operand, total, bases) for operand in operands if operand.name]
    lines += [_scalar_line(name, scalars[name]) for name in sorted(scalars)]
    expression = str(total)
    # at the start of a line, a sign would read as a continuation of the line before
    lines.append(f"({expression})" if expression[0] in "+-" else expression)
    return "".join(f"{line}\n" for line in lines)


Bases = Mapping[Operand, WeightedSum[Operand]]


def _depth(operand: Operand, bases: Bases) -> int:
    """Return how many tasks deep an operand's base is."""
    if operand not in bases:
        return 0
    return 1 + max((_depth(o, bases) for o in bases[operand].terms if o != operand), default=0)


def _checkpoint_line(operand: Operand, total: Resolved, bases: Bases) -> str:
    name, found = operand.name, operand.checkpoint
    if found is None or not found.shards:
        option = "--task" if operand.is_task else "--model"
        binding = "--base PATH" if name == "base" else f"{option} {name}=PATH"
        return f"# {name} is in memory: bind the name, as with {binding}"
    arguments = [in_quotes(found.path)]
    if operand in bases:
        terms = sorted(bases[operand].terms.items(), key=lambda t: sort_key(t[0].name, t[0].path))
        arguments.append(str(Canonical(tuple(terms), total.bases)))
    if operand.strip_prefix is not None:
        arguments.append(f"strip_prefix={in_quotes(operand.strip_prefix)}")
    return f"{name} = {'task' if operand in bases else 'checkpoint'}({', '.join(arguments)})"


def in_quotes(text: str) -> str:
    """Write a text as a string of the language.

    Raises:
        UsageError: no quotes can hold it.
    """
    quote = "'" if '"' in text else '"'
    if quote in text or not text.isprintable():
        raise UsageError(
            f"{quoted(text)} cannot be written in a recipe",
            note="a text in quotes holds one sort of quotes at most, and no control characters",
        )
    return f"{quote}{text}{quote}"


def _scalar_line(name: str, value: Coefficient) -> str:
    """Bind a scalar; every part of one that depends on the tensor gets a line, if it is long."""
    texts = [_part(monomial, number) for monomial, number in in_order(value.parts)]
    line = f"{name} = {join_terms(texts)}"
    if len(line) <= _WIDTH:
        return line
    first, *rest = texts
    lines = [first, *(f"- {t[1:]}" if t.startswith("-") else f"+ {t}" for t in rest)]
    return "\n".join([f"{name} = (", *(f"    {text}" for text in lines), ")"])


def _part(monomial: Monomial, number: Fraction) -> str:
    text, written = monomial.times(number), decimal_text(number)
    if monomial.selectors and "/" in written:  # a selector holds tighter than a division
        return f"({written}){text.removeprefix(written)}"
    return text
