"""A point's weights, and its scores: a folder for a command, a model in memory for a function.

A folder is what `Recipe.save` publishes. In memory the operands are held and evaluated in place for
each point (memory/live.py), where the recipe can stay symbolic; one that is a model at some values
only, say, is evaluated anew.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from taskalg.algebra.coefficient import Coefficient
from taskalg.algebra.weighted_sum import WeightedSum
from taskalg.checkpoints.base import Checkpoint
from taskalg.checkpoints.memory import open_memory
from taskalg.errors import ExpressionError, TaskalgError, UsageError
from taskalg.recipe import Recipe
from taskalg.sweeping.command import Command
from taskalg.sweeping.scores import checked_scores, printed_scores
from taskalg.sweeping.scratch import empty

if TYPE_CHECKING:
    from taskalg.memory.live import Live

Values = Mapping[str, Fraction]
Score = Callable[[Any], Any]  # a model or a state dict -> a number, or numbers by key


# Of the options that points are evaluated with, those that say nothing about the result.
_RUNNING = ("device", "engine", "threads", "on_overflow", "shard_size", "progress")


class Evaluator(Protocol):
    """Scores the points of a recipe."""

    def base(self) -> dict[str, float]:
        """Score the base."""
        ...

    def point(self, values: Values) -> dict[str, float]:
        """Score the recipe with some scalars."""
        ...

    def leave(self, values: Values | None) -> None:
        """Leave behind what the recipe gives with some scalars; None after an error."""
        ...


class InFolder:
    """Writes each point to one folder, which a command scores.

    Args:
        recipe: with scalars to set.
        command: what scores.
        scratch: an empty folder, empty again after each point.
        options: of `Recipe.save`.
    """

    def __init__(
        self, recipe: Recipe, command: Command, scratch: Path, options: Mapping[str, Any]
    ) -> None:
        self._recipe, self._command, self._options = recipe, command, options
        self._scratch = scratch

    def base(self) -> dict[str, float]:
        """Score the base: where it lies if it is a folder, else written as a point is."""
        made = base_of(self._recipe)
        place = _folder(made)
        if place is not None:
            return self._run(place, {})
        return self._evaluated(made, {}, _running(self._options))

    def point(self, values: Values) -> dict[str, float]:
        """Write, score, remove."""
        return self._evaluated(self._recipe.bind(**values), values, self._options)

    def leave(self, values: Values | None) -> None:
        """Leave nothing."""

    def _evaluated(
        self, made: Recipe, values: Values, options: Mapping[str, Any]
    ) -> dict[str, float]:
        model = self._scratch / "model"
        empty(self._scratch)  # says so if it could not be emptied before
        try:
            made.save(model, **options)
            return self._run(model, values)
        finally:
            with suppress(TaskalgError):  # the score is not lost for that
                empty(self._scratch)

    def _run(self, model: Path, values: Values) -> dict[str, float]:
        return printed_scores(self._command.run(model.absolute(), values), self._recipe.scalars)


class InMemory:
    """Evaluates each point in memory, which a function scores.

    Args:
        recipe: with scalars to set.
        score: is given the model, or a state dict if there is none.
        model: gets each point's weights in place; None for weights by name. If it is the recipe's
            base, it gets its own back at the end: or the recipe would mean something else then.
        options: of `Recipe.live` or `Recipe.load_into`.
        hold: whether operands may be held from one point to the next.

    Raises:
        UsageError: the model is another checkpoint of the recipe.
    """

    def __init__(
        self, recipe: Recipe, score: Score, model: Any, options: Mapping[str, Any], *, hold: bool
    ) -> None:
        self._recipe, self._score, self._model, self._options = recipe, score, model, options
        self._may_hold = hold
        self._live: Live[Recipe] | None = None
        operands = set() if model is None else _places(recipe) & _places_of(open_memory(model))
        self._is_base = bool(operands)
        if operands:
            base = _places(base_of(recipe)) if isinstance(recipe.base, WeightedSum) else set()
            is_other = not operands <= base or options.get("donor", "base") != "base"
            self._refuse(is_other or not hold)

    def base(self) -> dict[str, float]:
        """Score the base. Before any point: what is held afterwards is not read again."""
        made = base_of(self._recipe)
        if self._model is None:
            return self._scored(made.state_dict(**_running(self._options)))
        made.load_into(self._model, **_running(self._options))
        return self._scored(self._model)

    def point(self, values: Values) -> dict[str, float]:
        """Evaluate and score."""
        return self._scored(self._evaluated(values))

    def leave(self, values: Values | None) -> None:
        """Leave the model, if there is one, with the weights of a point, or with its own."""
        if self._is_base:
            if self._live is not None:
                self._live.reset()
        elif self._model is not None and values is not None:
            self._evaluated(values)

    def _evaluated(self, values: Values) -> Any:
        """Return the model, or a state dict, with the weights of a point."""
        if self._live is not None:
            self._live.set(**values)
        elif self._may_hold:
            try:
                self._live = self._recipe.bind(**values).live(self._model, **self._options)
            except (ExpressionError, UsageError):  # its scalars cannot be left open, or be these
                self._may_hold = False
        if self._live is None:
            return self._anew(self._recipe.bind(**values))
        return self._live.state_dict() if self._model is None else self._model

    def _anew(self, made: Recipe) -> Any:
        held = ("operands",) if self._model is None else ("operands", "device")
        options = {name: value for name, value in self._options.items() if name not in held}
        if self._model is None:
            return made.state_dict(**options)
        self._refuse(self._is_base)
        made.load_into(self._model, **options)
        return self._model

    def _refuse(self, is_read: bool) -> None:
        """Refuse a model that would be read after it is written."""
        if is_read:
            raise UsageError(
                "the model is a checkpoint of the recipe, and is written to for each point",
                help="give a copy of it: model=copy.deepcopy(model)",
            )

    def _scored(self, weights: Any) -> dict[str, float]:
        return checked_scores(self._score(weights), self._recipe.scalars)


def base_of(recipe: Recipe) -> Recipe:
    """Return what a recipe binds to `base`, as a recipe.

    Raises:
        UsageError: nothing, or a scalar.
    """
    if not isinstance(recipe.base, WeightedSum):
        raise UsageError(
            "there is no base that could be scored", help="bind the checkpoint: --base PATH"
        )
    return Recipe(recipe.base, base=recipe.base, opened=recipe.opened, opening=recipe.opening)


def _running(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name in _RUNNING}


def _folder(recipe: Recipe) -> Path | None:
    """Return the folder that a recipe is, as it lies; None when it has to be evaluated."""
    terms = recipe.resolved.terms
    alone = len(terms) == 1 and terms[0][1] == Coefficient(1)
    checkpoint = terms[0][0].checkpoint if alone else None
    if checkpoint is None or any(shard.remote for shard in checkpoint.shards):
        return None
    return checkpoint.folder


def _places(recipe: Recipe) -> set[int]:
    """Return where a recipe's operands are, those in memory."""
    opened = [operand.checkpoint for operand, _ in recipe.resolved.terms]
    return {place for one in opened if one is not None for place in _places_of(one)}


def _places_of(checkpoint: Checkpoint) -> set[int]:
    return {array.address for array in checkpoint.arrays if array.nbytes}
