"""What a function returned or a command printed, as scores by key."""

import json
import math
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from taskalg.errors import UsageError, printable, quoted
from taskalg.scalars import is_number, to_fraction
from taskalg.sweeping.goal import BASE

ONLY = "score"  # the key of a single number
DIGEST = "sweep"  # the column of a CSV file that says which sweep a row is of
_HELP = 'print a number, or an object of numbers such as {"control": 0.81}, as the last line'
_FORM = 'scores are numbers by key: {"control": 0.81}'
_RENAME = "choose another name"


def printed_scores(output: str, names: Collection[str]) -> dict[str, float]:
    """Return the scores in the last line that a command printed.

    Raises:
        UsageError: it is neither a number nor a flat JSON object of numbers.
    """
    lines = [line for line in output.splitlines() if line.strip()]
    if not lines:
        raise UsageError("the command printed nothing on stdout", help=_HELP)
    found = _read(lines[-1])
    if not (is_number(found) or isinstance(found, dict)) or isinstance(found, bool):
        raise UsageError(
            "the last line that the command printed is no score",
            note=f"found {quoted(lines[-1])}",
            help=_HELP,
        )
    return checked_scores(found, names)


def _read(line: str) -> Any:
    """Return what a line says: JSON, or a number as Python and bc print it (`nan`, `.5`)."""
    try:
        return json.loads(line, object_pairs_hook=_once)
    except (ValueError, RecursionError):
        pass
    try:
        return float(line)
    except ValueError:
        return None


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of keys and values; a parser would take the last of two."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _twice(key)
        found[key] = value
    return found


def _twice(key: str) -> UsageError:
    return UsageError(f"the score {quoted(key)} is there twice", help="give each a key of its own")


def checked_scores(found: Any, names: Collection[str]) -> dict[str, float]:
    """Return scores by key.

    Args:
        found: a number, or numbers by key.
        names: of swept scalars, which no key may have.

    Raises:
        UsageError: it is something else, or has a key that cannot be one.
    """
    scores: dict[str, float] = {}
    for typed, value in (found if isinstance(found, Mapping) else {ONLY: found}).items():
        key = _key(typed, names)
        if key in scores:
            raise _twice(key)
        scores[key] = _number(key, value)
    if not scores:
        raise UsageError("there is no score", note="found no keys", help=_FORM)
    return scores


def check_same(scores: Mapping[str, float], keys: Collection[str]) -> None:
    """Refuse scores with other keys than those before.

    Raises:
        UsageError: they have.
    """
    if set(scores) != set(keys):
        new, old = (printable(", ".join(sorted(some))) for some in (scores, keys))
        raise UsageError("the scores have other keys than before", note=f"found {new}, not {old}")


def _key(typed: Any, names: Collection[str]) -> str:
    """Return a key as formulas have names, or refuse it."""
    key = unicodedata.normalize("NFKC", typed) if isinstance(typed, str) else ""
    if not key or printable(key) != key:
        raise UsageError(f"{quoted(str(typed))} cannot be the key of a score", help=_RENAME)
    if key in names:
        what = f"{quoted(key)} is a swept scalar, so no score can be called that"
        raise UsageError(what, help=_RENAME)
    if key == DIGEST or key.startswith(BASE):
        raise UsageError(f"a score cannot be called {quoted(key)}", help=_RENAME)
    return key


def _number(key: str, value: Any) -> float:
    """Return a score; NumPy's and torch's mean the decimals that they print as."""
    plain = value.item() if is_number(value) and hasattr(value, "item") else value
    if not is_number(plain) or isinstance(plain, bool):
        raise UsageError(
            f"the score {quoted(key)} is not a number",
            note=f"found {type(value).__name__}",
            help=_FORM,
        )
    try:
        number = float(plain)
    except OverflowError:  # an integer
        number = math.inf if plain > 0 else -math.inf
    return float(to_fraction(value)) if math.isfinite(number) else number
