"""A recipe as HTML: what it is, and which checkpoints are in it with which coefficient."""

from taskalg.algebra.coefficient import Coefficient
from taskalg.errors import TaskalgError
from taskalg.expression import Expression
from taskalg.markup import message, page, paragraph, table
from taskalg.planning.resolve import Operand
from taskalg.units import bytes_text


def recipe_html(recipe: Expression) -> str:
    """Return an expression as HTML. Reads headers only; what is wrong with them is shown."""
    try:
        first = paragraph(str(recipe.kind), str(recipe))
        if isinstance(recipe.value, Coefficient):
            return page(first)
        header = ("checkpoint", "coefficient", "tensors", "size", "from")
        rows = [
            (operand.called, str(part), *_file(operand)) for operand, part in recipe.resolved.terms
        ]
        return page(first, table(header, rows, numbers=(1, 2, 3)))
    except TaskalgError as error:  # a display must not fail
        return message(str(error))


def _file(operand: Operand) -> tuple[str, str, str]:
    """Say how many tensors there are, how much data that is, and where."""
    found = operand.checkpoint
    if found is None:
        return "", "", "declared without a file"
    size = sum(tensor.bytes_stored for tensor in found.tensors.values())
    return f"{len(found.tensors):,}", bytes_text(size), operand.path or "memory"
