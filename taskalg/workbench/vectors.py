"""Commands that measure: norms, angles, and where vectors are large.

Everything is measured once: what is asked next of the same files is answered without reading them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from taskalg.algebra.kinds import Kind
from taskalg.errors import TaskalgError, printable, quoted
from taskalg.language.nodes import Argument, Call, Node
from taskalg.language.printer import print_node
from taskalg.recipe import Recipe
from taskalg.workbench.answer import Answer
from taskalg.workbench.line import Line
from taskalg.workbench.looking import asked
from taskalg.workbench.numbers import number
from taskalg.workbench.workspace import Workspace

if TYPE_CHECKING:
    from taskalg.measuring.geometry import Geometry
    from taskalg.measuring.parts import Part

_MOST, _CHANGES = 10, 20  # rows of a ranking, when no other number is given
PICTURES = ("cosines", "norms", "sweep")


def norm(workspace: Workspace, line: Line) -> Answer:
    """Measure how long a vector is."""
    call = _call("norm", asked(workspace, line))
    answer = number(workspace, workspace.recipe(call))
    return replace(answer, text=f"{print_node(call)} = {answer.text}") if line.is_empty else answer


def cos(workspace: Workspace, line: Line) -> Answer:
    """Measure the cosine between two; of more, or of all task vectors, a table."""
    expressions = () if line.is_empty else line.expressions()
    if len(expressions) == 2:
        return number(workspace, workspace.recipe(_call("cos", *expressions)))
    found = _measured(workspace, _vectors(workspace, line, expressions))
    return Answer(str(found), found)


def top(workspace: Workspace, line: Line) -> Answer:
    """List the layers and the tensors in which a vector is longest."""
    count, line = line.last_number(_MOST)
    expression = asked(workspace, line)
    name = print_node(expression)
    found = _measured(workspace, {name: workspace.recipe(expression)})
    blocks = [_largest(level, found.by(level), found.whole, count) for level in ("layer", "tensor")]
    return Answer("\n\n".join([printable(name), *blocks]), found)


def diff(workspace: Workspace, line: Line) -> Answer:
    """Rank what differs most between two, as `taskalg diff` does."""
    from taskalg.measuring.changes import changes
    from taskalg.measuring.parts import LEVELS

    level, line = line.value("--by")
    if level is not None and level not in LEVELS:
        raise line.wrong(f"models are not divided by {quoted(level)}")
    count, line = line.last_number(_CHANGES)
    expressions = line.expressions()
    if len(expressions) != 2:
        raise line.wrong("two are compared", note=f"found {len(expressions)}")
    first, second = (workspace.recipe(one) for one in expressions)
    with workspace.working() as showing:
        found = changes(first, second, by=level or "tensor", progress=showing)
    return Answer(found.text(count), found)


def plot(workspace: Workspace, line: Line) -> Answer:
    """Draw cosines, norms by layer, or the last sweep, into a file."""
    from taskalg.pictures.canvas import check_picture, save_figure

    what, line = line.first("picture")
    if what not in PICTURES:
        raise line.wrong(f"there is no picture of {what!r}")
    file, line = line.first("file")
    path = check_picture(file)
    if what == "sweep":
        from taskalg.pictures.sweeps import sweep_figure

        if workspace.swept is None:
            raise line.wrong("nothing was swept yet")
        figure = sweep_figure(workspace.swept)
    else:
        from taskalg.pictures.cosines import cosines_figure
        from taskalg.pictures.norms import norms_figure

        expressions = () if line.is_empty else line.expressions()
        found = _measured(workspace, _vectors(workspace, line, expressions))
        figure = cosines_figure(found) if what == "cosines" else norms_figure(found)
    save_figure(figure, path)
    return Answer(f"wrote {printable(file)}", figure)


def _vectors(workspace: Workspace, line: Line, expressions: Sequence[Node]) -> Mapping[str, Recipe]:
    """Return expressions by their texts, or all checkpoints that are task vectors."""
    if expressions:
        return {print_node(one): workspace.recipe(one) for one in expressions}
    checkpoints = workspace.checkpoints()
    found = {name: one for name, one in checkpoints.items() if _is_vector(one)}
    if not found:
        raise line.wrong("no task vector is bound")
    return found


def _is_vector(recipe: Recipe) -> bool:
    try:
        return recipe.kind is Kind.TASK_VECTOR
    except TaskalgError:  # a file that cannot be opened; :models tells
        return False


def _measured(workspace: Workspace, vectors: Mapping[str, Recipe]) -> "Geometry":
    from taskalg.measuring.geometry import geometry

    with workspace.working() as showing:
        return geometry(vectors, progress=showing)


def _largest(level: str, parts: Sequence["Part"], whole: "Part", count: int) -> str:
    """List the parts that are longest, and their shares of the square."""
    from taskalg.measuring.tables import aligned, number_text, percent_text

    def row(name: str, part: "Part") -> tuple[str, str, str]:
        length, all_of_it = float(part.norms[0]), float(whole.norms[0])
        share = percent_text((length / all_of_it) ** 2) if all_of_it else "-"
        return printable(name), number_text(length), share

    ranked = sorted(parts, key=lambda part: -float(part.norms[0]))
    rows = [row(part.name, part) for part in ranked[:count]]
    lines = aligned([(level, "norm", "share"), *rows, ("all", *row("", whole)[1:])])
    more = len(parts) - count
    if more > 0:
        lines.insert(-1, f"and {more:,} more")
    return "\n".join(lines)


def _call(function: str, *arguments: Node) -> Node:
    span = arguments[0].span.to(arguments[-1].span)
    return Call(function, tuple(Argument(None, one, one.span) for one in arguments), span, span)
