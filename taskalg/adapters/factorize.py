"""Matrices to factors of a rank: `b @ a` as near as that rank allows, and how near that is.

Factors are split evenly, `b = u * sqrt(s)` and `a = sqrt(s) * v`, as PEFT's own conversions do, so
that neither leaves the range of a 16-bit dtype. Small matrices and products take the exact singular
value decomposition in binary64; for others the randomized one of torch is enough (Halko,
Martinsson and Tropp 2011, arXiv 0909.4061), seeded, in binary32. None of this is to the bit: a
library chooses the order of its operations, and residuals say what came out.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]

_EXACT = 1024  # smaller side up to which the whole decomposition takes about a second
_OVERSAMPLED = 16  # singular vectors beyond the rank, and
_ITERATIONS = 4  # powers: with both the residual was within 1e-3 of the best one on real deltas
_CHUNK = 16_000_000  # elements of a residual in memory at once


@dataclass(frozen=True)
class Factored:
    """A matrix as two factors."""

    b: Matrix  # `(rows, rank)`
    a: Matrix  # `(rank, columns)`


def of_product(b: Matrix, a: Matrix, rank: int) -> Factored:
    """Return the best factors of a rank for `b @ a`, which is never formed.

    Args:
        b: `(rows, k)`.
        a: `(k, columns)`.
        rank: at most k, rows and columns.
    """
    left, core_left = np.linalg.qr(b)
    right, core_right = np.linalg.qr(a.T)
    u, s, v = np.linalg.svd(core_left @ core_right.T)
    return _split(left @ u, s, v @ right.T, rank)


def of_matrix(matrix: NDArray[np.float32], rank: int) -> Factored:
    """Return factors of a rank for a matrix: the best ones when it is small, else nearly."""
    if min(matrix.shape) <= _EXACT:
        return _split(*np.linalg.svd(matrix.astype(np.float64), full_matrices=False), rank)
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        wanted = min(rank + _OVERSAMPLED, *matrix.shape)
        u, s, v = torch.svd_lowrank(torch.from_numpy(matrix), wanted, _ITERATIONS)
    left, values, right = (part.numpy().astype(np.float64) for part in (u, s, v.T))
    return _split(left, values, right, rank)


def _split(u: Matrix, s: Matrix, v: Matrix, rank: int) -> Factored:
    root = np.sqrt(s[:rank])
    return Factored(u[:, :rank] * root, root[:, None] * v[:rank])


@dataclass(frozen=True)
class Norms:
    """Sums of squares."""

    whole: float  # of the matrix
    rest: float  # of what its factors leave over

    def __add__(self, other: "Norms") -> "Norms":
        return Norms(self.whole + other.whole, self.rest + other.rest)

    @property
    def residual(self) -> float:
        """What is left over, in the Frobenius norm, as a share of the matrix; 0 of nothing."""
        return float(np.sqrt(self.rest / self.whole)) if self.whole else 0.0


def compare(rows: Iterator[Matrix], factored: Factored) -> Norms:
    """Hold factors, as they are stored, against the rows of the matrix they stand for."""
    total, start = Norms(0.0, 0.0), 0
    for part in rows:
        left = part - factored.b[start : start + len(part)] @ factored.a
        total += Norms(float(np.vdot(part, part)), float(np.vdot(left, left)))
        start += len(part)
    return total


def chunks(matrix: NDArray[np.float32]) -> Iterator[Matrix]:
    """Yield a matrix some rows at a time, in binary64."""
    step = max(1, _CHUNK // max(1, matrix.shape[1]))
    for start in range(0, len(matrix), step):
        yield matrix[start : start + step].astype(np.float64)


def product_chunks(b: Matrix, a: Matrix) -> Iterator[Matrix]:
    """Yield the rows of a product some at a time."""
    step = max(1, _CHUNK // max(1, a.shape[1]))
    for start in range(0, len(b), step):
        yield b[start : start + step] @ a
