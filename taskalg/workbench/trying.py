"""The command that scores an expression at many values of its scalars."""

import logging

from taskalg.algebra.coefficient import Coefficient
from taskalg.algebra.rationals import decimal_text
from taskalg.errors import printable
from taskalg.sweeping.grid import read_grid, split_setting
from taskalg.sweeping.sweep import RESULTS
from taskalg.sweeping.sweep import sweep as run_sweep
from taskalg.sweeping.values import Point, Sweep
from taskalg.workbench.answer import Answer
from taskalg.workbench.line import Line
from taskalg.workbench.looking import asked
from taskalg.workbench.workspace import Workspace

_log = logging.getLogger(__name__)


def sweep(workspace: Workspace, line: Line) -> Answer:
    """Score a sum at every point of a grid; the names that are swept need no value before."""
    restart, line = line.option("--restart")
    verbose, line = line.option("--verbose")
    settings, line = line.values("--set")
    conditions, line = line.values("--subject-to")
    score, line = line.value("--score")
    maximize, line = line.value("--maximize")
    minimize, line = line.value("--minimize")
    csv, line = line.value("--csv")
    if score is None or not settings:
        raise line.wrong("a sweep needs values and a command that scores them")
    grid = _grid(line, settings)
    expression = asked(workspace, line)
    first = {name: Coefficient(value) for name, value in read_grid(grid).points[0].items()}
    recipe = workspace.recipe(expression, workspace.definitions.giving(first))
    unused = sorted(first.keys() - recipe.scalars.keys())
    if unused:
        raise line.wrong(f"{unused[0]} has no part in the expression")
    try:
        found = run_sweep(
            recipe,
            grid,
            score,
            maximize=maximize,
            minimize=minimize,
            subject_to=conditions,
            csv=csv,
            restart=restart,
            verbose=verbose,
            progress=_tell,
        )
    except KeyboardInterrupt:
        _log.info("what is scored is in %s; the same command goes on", printable(csv or RESULTS))
        raise
    workspace.swept = found
    return Answer("\n".join([str(found), *_to_keep(found)]), found)


def _grid(line: Line, settings: tuple[str, ...]) -> dict[str, str]:
    grid: dict[str, str] = {}
    for text in settings:
        names, values, _ = split_setting(text)
        if values is None or names in grid:
            raise line.wrong("every --set gives values to names of its own")
        grid[names] = values
    return grid


def _tell(point: Point, done: int, total: int) -> None:
    _log.info("%*d/%d  %s", len(str(total)), done, total, point.told)


def _to_keep(found: Sweep) -> list[str]:
    values = {} if found.chosen is None else found.chosen.values
    return [f"to keep it: {name} = {decimal_text(value)}" for name, value in values.items()]
