"""A recipe, a grid and what scores: to a table of points, one of them chosen.

Points are scored one after the other, in the grid's order, and each is on the disk before the next
begins. Rejected: a search that skips points (the paper's is a grid, and curves are looked at), and
several points at once (a scorer takes the machine it gets).
"""

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from fractions import Fraction
from os import PathLike
from pathlib import Path
from typing import Any

from taskalg import files
from taskalg.arguments import recipe_in, wrong
from taskalg.binding import freed, new_scalars
from taskalg.errors import ExpressionError, TaskalgError, UsageError
from taskalg.recipe import AnyPath, Recipe
from taskalg.sweeping.command import read_command, scripts
from taskalg.sweeping.evaluating import Evaluator, InFolder, InMemory, Score
from taskalg.sweeping.goal import BASE, Goal, check_names, choose, read_goal
from taskalg.sweeping.grid import Grid, Values, read_grid
from taskalg.sweeping.results import Key, Results
from taskalg.sweeping.scratch import scratch_folder
from taskalg.sweeping.values import Point, Sweep

RESULTS = "sweep.csv"  # where a command's scores go by default
Told = Callable[[Point, int, int], None]
_PLANNING = ("dtype", "donor", "allow_partial", "only_shared", "rows")  # options that decide bytes

_log = logging.getLogger(__name__)


def sweep(
    recipe: Recipe,
    grid: Mapping[str, Values],
    score: Score | str,
    *,
    model: Any = None,
    maximize: str | None = None,
    minimize: str | None = None,
    subject_to: str | Sequence[str] = (),
    csv: AnyPath | None = None,
    restart: bool = False,
    scratch: AnyPath | None = None,
    timeout: float | None = None,
    verbose: bool = False,
    hold: bool = True,
    options: Mapping[str, Any] | None = None,
    progress: Told | None = None,
) -> Sweep:
    """Evaluate a recipe at every point of a grid of scalars, score it, and choose a point.

    For example, the largest λ that keeps 95 % of the base's accuracy on a control task:
    `sweep(recipe, {"λ": "0:1:0.05"}, score, model=model, maximize="λ",
    subject_to="control >= 0.95*base.control")`.

    A function is called with the model, which has the point's weights in place, or with a state
    dict, which the next point overwrites; it must not change them. Afterwards the model has the
    weights of the chosen point; those of the recipe as it is if none was chosen; and its own if
    it is the recipe's base.

    A command is given a folder in the place of `{model}`, and a value in that of `{λ}`; also in
    TASKALG_MODEL and TASKALG_λ. It is started without a shell. Its last line on stdout is a number,
    or a JSON object of numbers. Points that are in the CSV file are not scored again.

    Args:
        recipe: with the scalars to sweep among its `scalars`.
        grid: what they take: `"0:1:0.05"`, with both ends and exact; `"0, 0.5, 1"`; or numbers. The
            key `"a=b"` moves two together. All combinations are tried, the last changing fastest.
        score: a function that returns a number, called "score", or numbers by key; or a command.
        model: a module or a state dict, for a function.
        maximize: an expression in scores, swept scalars and `base.KEY`, which is what the base
            scores. Of equals the first point is chosen; never one where it is not finite.
        minimize: the same the other way round.
        subject_to: conditions in the same names, such as `"control >= 0.95*base.control"`. What is
            not finite meets none.
        csv: where scores are kept; a sweep of the same goes on there, also with another grid. For
            a command sweep.csv by default. A function is taken to be the same.
        restart: whether scores of an earlier sweep in that file give way.
        scratch: the folder that a command's model is written in; by default that of the CSV file.
        timeout: seconds that a command may take.
        verbose: whether what a command says on stderr is shown.
        hold: whether operands stay in memory from one point to the next, for a function.
        options: of `Recipe.save` for a command, of `Recipe.live` for a function.
        progress: called with a point that was scored, how many are done, and how many there are.

    Raises:
        UsageError: a name, a value or the command is wrong; the command fails.
        TaskalgError: as `Recipe.save` or `Recipe.live` does. What was scored is kept.

    Memory: all operands for a function that may hold them; else as `Recipe.save`.
    """
    _check_arguments(recipe, grid, score, model)
    if isinstance(score, str) and model is not None:
        raise UsageError("a command scores a folder, not a model", help="give a function")
    if model is not None and options is not None and options.get("dtype") is not None:
        raise UsageError("the model decides the dtypes", help="leave out dtype")
    recipe = recipe if recipe.numeric is None else recipe.numeric
    chosen = {} if options is None else options
    conditions = (subject_to,) if isinstance(subject_to, str) else tuple(subject_to)
    run = _Run(recipe, read_grid(grid), read_goal(maximize, minimize, conditions), progress)
    run.check({name: chosen[name] for name in _PLANNING if name in chosen})
    path = _place(RESULTS if csv is None and isinstance(score, str) else csv)
    digest = run.digest(score if isinstance(score, str) else "", chosen)
    if isinstance(score, str):
        command = read_command(score, timeout=timeout, is_heard=verbose)
        assert path is not None, "a command's scores are always kept"
        with scratch_folder(path, _place(scratch)) as folder:
            marks = scripts(score)
            results = Results(path, run.names, digest, scripts=marks, restart=restart)
            return run.scored(InFolder(recipe, command, folder, chosen), results)
    with nullcontext() if path is None else scratch_folder(path):
        results = Results(path, run.names, digest, restart=restart)
        return run.scored(InMemory(recipe, score, model, chosen, hold=hold), results)


def _check_arguments(recipe: object, grid: object, score: object, model: object) -> None:
    recipe_in(recipe, "what is swept")
    if not isinstance(grid, Mapping):
        raise wrong("a grid has values by name", grid, 'write {"λ": "0:1:0.05"}')
    if not (callable(score) or isinstance(score, str)):
        raise wrong("a score is a function or a command", score, "give a function of the model")
    if isinstance(model, str | PathLike):
        raise wrong("a model is a module or a state dict", model, "load it first")


def _place(path: AnyPath | None) -> Path | None:
    return None if path is None else files.at_home(path)


class _Run:
    """One sweep, from what was asked to what was found."""

    def __init__(self, recipe: Recipe, grid: Grid, goal: Goal, progress: Told | None) -> None:
        self.names = grid.names
        self._recipe, self._goal, self._progress = recipe, goal, progress
        self._points = grid.points
        self._is_checked = False  # whether the goal's names are known to be scored or swept

    def check(self, planning: Mapping[str, Any]) -> None:
        """Refuse what would fail at some point, before the first one.

        Raises:
            UsageError: there is no such scalar.
            TaskalgError: a point cannot be evaluated.
        """
        new_scalars(self._recipe.scalars, dict.fromkeys(self.names, 0))
        for index, values in enumerate(self._points):
            with _at(Point(values, {})):
                made = self._recipe.bind(**values)
                if index == 0:
                    made.plan(**planning)

    def digest(self, command: str, options: Mapping[str, Any]) -> str:
        """Return what two sweeps share only if they score the same things in the same way."""
        others = {n: str(v) for n, v in self._recipe.scalars.items() if n not in self.names}
        try:
            total = str(freed(self._recipe, self.names))
        except ExpressionError:  # it cannot be left open: what was typed has to do
            written = self._recipe.written
            sources = [one.text for one in (written.recipe, written.expression) if one is not None]
            total = repr((sources, others))
        planning = [(name, str(options[name])) for name in _PLANNING if options.get(name)]
        found = hashlib.sha256(repr((total, planning, command)).encode())
        for operand, _ in self._recipe.resolved.terms:
            found.update(repr((operand.called, operand.is_task)).encode())
            for shard in () if operand.checkpoint is None else operand.checkpoint.shards:
                mark = shard.fingerprint
                state = shard.remote or (shard.path.name, mark.size, mark.mtime_ns)
                found.update(repr((state, shard.header_hash)).encode())
        return found.hexdigest()[:16]

    def scored(self, evaluator: Evaluator, results: Results) -> Sweep:
        """Score what is not scored yet, and choose."""
        try:
            self._score(evaluator, results)
            found = self._found(results.scores)
            given = {name: self._recipe.scalars[name] for name in self.names}
            evaluator.leave(given if found.chosen is None else found.chosen.values)
        except BaseException:
            evaluator.leave(None)
            raise
        return found

    def _score(self, evaluator: Evaluator, results: Results) -> None:
        done = sum(_key(values) in results.scores for values in self._points)
        if done:
            _log.info("%d of %d points are scored already", done, len(self._points))
        if results.outdated:
            _log.warning(
                "%d scores are of another version of the script; --restart makes them anew",
                results.outdated,
            )
        if self._goal.uses_base and () not in results.scores:
            results.add((), evaluator.base())
        self._check_names(results)
        for values in self._points:
            if _key(values) not in results.scores:
                with _at(Point(values, {})):
                    results.add(_key(values), evaluator.point(values))
                done += 1
                if self._progress is not None:
                    point = Point(values, results.scores[_key(values)])
                    self._progress(point, done, len(self._points))
            self._check_names(results)

    def _check_names(self, results: Results) -> None:
        """Refuse a goal of unknown names as soon as the first scores are there."""
        if self._is_checked or not results.scores:
            return
        keys = next(iter(results.scores.values()))
        based = [BASE + key for key in keys] if self._goal.uses_base else []
        check_names(self._goal, [*keys, *self.names, *based])
        self._is_checked = True

    def _found(self, scores: Mapping[Key, Mapping[str, float]]) -> Sweep:
        goal = self._goal
        points = tuple(Point(values, scores[_key(values)]) for values in self._points)
        base = scores.get((), {})
        chosen, nearest = choose(points, base, goal)
        return Sweep(
            names=self.names,
            points=points,
            base=base,
            chosen=chosen,
            nearest=nearest,
            maximize=goal.maximize,
            minimize=goal.minimize,
            subject_to=goal.subject_to,
        )


def _key(values: Mapping[str, Fraction]) -> Key:
    return tuple(values.values())


@contextmanager
def _at(point: Point) -> Iterator[None]:
    """Say at which point something went wrong."""
    try:
        yield
    except TaskalgError as error:
        error.note = f"at {point}" if error.note is None else f"{error.note}; at {point}"
        raise
