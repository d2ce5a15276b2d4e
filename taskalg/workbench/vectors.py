"""Commands that measure: norms, angles, and where vectors are large.

Everything is measured once: what is asked next of the same files is answered without reading them.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from taskalg.algebra.kinds import Kind
from taskalg.errors import TaskalgError, printable
from taskalg.language.nodes import Argument, Call, Node
from taskalg.language.printer import print_node
from taskalg.recipe import Recipe
from taskalg.workbench.answer import Answer
from taskalg.workbench.line import Line
from taskalg.workbench.looking import asked
from taskalg.workbench.numbers import number, number_text
from taskalg.workbench.workspace import Workspace

if TYPE_CHECKING:
    from taskalg.measuring.geometry import Geometry
    from taskalg.measuring.parts import Part

_MOST = 10  # rows of a ranking, when no other number is given
PICTURES = ("cosines", "norms", "sweep")


def norm(workspace: Workspace, line: Line) -> Answer:
    """Measure how long a vector is."""
    return number(workspace, workspace.recipe(_call("norm", asked(workspace, line))))


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
    return _ranking(workspace, workspace.recipe(expression), print_node(expression), count)


def diff(workspace: Workspace, line: Line) -> Answer:
    """List the layers and the tensors in which two differ most."""
    count, line = line.last_number(_MOST)
    expressions = line.expressions()
    if len(expressions) != 2:
        raise line.wrong("two are compared", note=f"found {len(expressions)}")
    first, second = (workspace.recipe(one) for one in expressions)
    return _ranking(workspace, second - first, "difference", count)


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


def _ranking(workspace: Workspace, recipe: Recipe, name: str, count: int) -> Answer:
    found = _measured(workspace, {name: recipe})
    whole = float(found.norms[0])
    blocks = [_largest(level, found.by(level), whole, count) for level in ("layer", "tensor")]
    return Answer("\n\n".join([f"norm   {number_text(whole)}", *blocks]), found)


def _largest(level: str, parts: Sequence["Part"], whole: float, count: int) -> str:
    """List the parts that are longest, and their shares of the square."""
    norms = [(float(part.norms[0]), printable(part.name)) for part in parts]
    norms.sort(key=lambda one: -one[0])
    width = max([len(level), *(len(name) for _, name in norms[:count])])
    lines = [f"{level:<{width}}         norm     share"]
    for length, name in norms[:count]:
        share = (length / whole) ** 2 if whole else 0.0
        lines.append(f"{name:<{width}}   {number_text(length):>10}   {100 * share:5.1f} %")
    more = len(norms) - count
    return "\n".join([*lines, *([f"and {more:,} more"] if more > 0 else [])])


def _call(function: str, *arguments: Node) -> Node:
    span = arguments[0].span.to(arguments[-1].span)
    return Call(function, tuple(Argument(None, one, one.span) for one in arguments), span, span)
