"""What several seeds found, number by number: `results[key]` is a list in each of them."""

from collections.abc import Sequence
from statistics import correlation, fmean

from paper.experiment import Results


def shares(seeds: Sequence[Results], key: str) -> list[list[float]]:
    """Return for every place in the list one number for every seed."""
    return [list(numbers) for numbers in zip(*(found[key] for found in seeds), strict=True)]


def means(seeds: Sequence[Results], key: str) -> list[float]:
    """Return the same as a mean over seeds."""
    return [fmean(numbers) for numbers in shares(seeds, key)]


def together(one: Sequence[float], other: Sequence[float]) -> str:
    """Write a correlation; numbers that are all the same have none."""
    if len(set(one)) == 1 or len(set(other)) == 1:
        return "none"
    return f"{correlation(one, other):.2f}"
