"""Values to the lines that a session shows for them: what it is, what it would cost."""

from taskalg.algebra.canonical import Canonical, sort_key
from taskalg.algebra.coefficient import Coefficient
from taskalg.algebra.weighted_sum import Sum, Value, WeightedSum
from taskalg.checkpoints.base import Checkpoint
from taskalg.errors import KindError, listed, printable
from taskalg.measuring.told import bytes_measured
from taskalg.planning.plan import Choices, Plan
from taskalg.planning.resolve import Operand
from taskalg.planning.result import check_result
from taskalg.planning.rounds import rounds
from taskalg.recipe import Recipe
from taskalg.units import bytes_text
from taskalg.workbench.words import in_session

_NOTHING = "nothing: it is the file that it is taken against"


def described(recipe: Recipe) -> str:
    """Say what a sum is, and what evaluating it would read and write. Reads headers only.

    Raises:
        TaskalgError: its checkpoints cannot be opened, or do not fit.
    """
    start = f"{recipe.kind}  "
    lines = [f"{start}{printable(str(recipe))}", *_details(recipe)]
    return f"\n{' ' * len(start)}".join(lines)


def checkpoint_name(value: Value) -> str | None:
    """Return the name of one checkpoint; None for an expression."""
    if not isinstance(value, WeightedSum) or len(value.terms) != 1:
        return None
    ((reference, part),) = value.terms.items()
    return reference.name if part == Coefficient(1) else None


def sum_text(value: Sum) -> str:
    """Return a sum in the names it is written in, before any file is opened."""
    terms = sorted(value.terms.items(), key=lambda term: sort_key(term[0].name, term[0].path))
    return str(Canonical(tuple(terms), {}))


def value_text(value: Value) -> str:
    """Return a value as it is written."""
    return str(value) if isinstance(value, Coefficient) else sum_text(value)


def file_text(recipe: Recipe) -> str:
    """Say what is in the file of one checkpoint, and where it is."""
    operand = _operand(recipe)
    if operand is None:
        return _NOTHING
    found = operand.checkpoint
    if found is None:
        return "declared without a file"
    size, dtypes = _held(found)
    count = len(found.tensors)
    shards = f" ({len(found.shards)} shards)" if len(found.shards) > 1 else ""
    tensors = f"{count:,} tensor{'' if count == 1 else 's'}"
    return f"{tensors}, {dtypes}, {size} in {_place(operand)}{shards}{_against(operand)}"


def file_row(recipe: Recipe) -> tuple[str, str, str]:
    """Return the size of one checkpoint, its dtypes, and where it is."""
    operand = _operand(recipe)
    if operand is None:
        return "", "", _NOTHING
    if operand.checkpoint is None:
        return "", "", "declared without a file"
    return *_held(operand.checkpoint), _place(operand)


def _held(found: Checkpoint) -> tuple[str, str]:
    """Return the size of a checkpoint, and the dtypes of its tensors."""
    tensors = found.tensors.values()
    dtypes = listed(sorted({tensor.dtype.name for tensor in tensors}))
    return bytes_text(sum(tensor.bytes_stored for tensor in tensors)), dtypes


def place(recipe: Recipe) -> str:
    """Say where one checkpoint is."""
    operand = _operand(recipe)
    return _NOTHING if operand is None else _place(operand)


def _operand(recipe: Recipe) -> Operand | None:
    """Return the one checkpoint; None when it is taken against itself."""
    name = checkpoint_name(recipe.value)
    return next((operand for operand, _ in recipe.resolved.terms if operand.name == name), None)


def _place(operand: Operand) -> str:
    return printable(operand.path or "memory")


def _against(operand: Operand) -> str:
    return ", minus its base" if operand.is_task else ""


def _details(recipe: Recipe) -> list[str]:
    if checkpoint_name(recipe.value) is not None:
        return [file_text(recipe)]
    lines = []
    if all(operand.checkpoint is not None for operand, _ in recipe.resolved.terms):
        lines.append(_cost(recipe.planned(Choices(allow_partial=True))))
    try:
        check_result(recipe.aligned, recipe.kind, allow_partial=False)
    except KindError as error:  # what a merge would say
        lines.append(error.note or error.message)
        help = None if error.help is None else in_session(error.help)
        lines += [] if help is None else [help]
    return lines


def _cost(plan: Plan) -> str:
    read = listed([printable(usage.operand.called) for usage in plan.usage if usage.tensors])
    if plan.bytes_copied == plan.bytes_read == plan.bytes_written:
        return f"copies {bytes_text(plan.bytes_read)} of {read}"
    passes = bytes_measured(rounds(plan))
    before = f"measures {bytes_text(passes)}, then " if passes else ""
    cost = f"{bytes_text(plan.bytes_read)} of {read}, writes {bytes_text(plan.bytes_written)}"
    return f"{before}reads {cost}"
