"""What a function returned or a command printed, as scores by key."""

import json
import math
from collections.abc import Collection, Mapping
from typing import Any

from taskalg.errors import UsageError, printable, quoted
from taskalg.scalars import is_number, to_fraction
from taskalg.sweeping.goal import BASE

ONLY = "score"  # the key of a single number
DIGEST = "sweep"  # the column of a CSV file that says which sweep a row is of
_HELP = 'print a number, or an object of numbers such as {"control": 0.81}, as the last line'


def printed_scores(output: str, names: Collection[str]) -> dict[str, float]:
    """Return the scores in the last line that a command printed.

    Raises:
        UsageError: it is neither a number nor a flat JSON object of numbers.
    """
    lines = [line for line in output.splitlines() if line.strip()]
    if not lines:
        raise UsageError("the command printed nothing on stdout", help=_HELP)
    try:
        found = json.loads(lines[-1])
    except (ValueError, RecursionError):
        found = None
    if not (is_number(found) or isinstance(found, dict)) or isinstance(found, bool):
        raise UsageError(
            "the last line that the command printed is no score",
            note=f"found {quoted(lines[-1])}",
            help=_HELP,
        )
    return checked_scores(found, names)


def checked_scores(found: Any, names: Collection[str]) -> dict[str, float]:
    """Return scores by key.

    Args:
        found: a number, or numbers by key.
        names: of swept scalars, which no key may have.

    Raises:
        UsageError: it is something else, or has a key that cannot be one.
    """
    scores = found if isinstance(found, Mapping) else {ONLY: found}
    if not scores:
        raise UsageError("there is no score", note="found an object without keys")
    for key in scores:
        _check_key(key, names)
    return {key: _number(key, value) for key, value in scores.items()}


def check_same(scores: Mapping[str, float], keys: Collection[str]) -> None:
    """Refuse scores with other keys than those before.

    Raises:
        UsageError: they have.
    """
    if set(scores) != set(keys):
        new, old = (printable(", ".join(sorted(some))) for some in (scores, keys))
        raise UsageError("the scores have other keys than before", note=f"found {new}, not {old}")


def _check_key(key: Any, names: Collection[str]) -> None:
    if not isinstance(key, str) or not key or printable(key) != key:
        raise UsageError(f"{quoted(str(key))} cannot be the key of a score")
    if key in names:
        raise UsageError(f"{quoted(key)} is a swept scalar, so no score can be called that")
    if key == DIGEST or key.startswith(BASE):
        raise UsageError(f"a score cannot be called {quoted(key)}", help="choose another name")


def _number(key: str, value: Any) -> float:
    if is_number(value) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:  # an integer
            number = math.inf if value > 0 else -math.inf
        return float(to_fraction(value)) if math.isfinite(number) else number
    raise UsageError(
        f"the score {quoted(key)} is not a number", note=f"found {type(value).__name__}"
    )
