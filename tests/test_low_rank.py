"""Products of low-rank factors: every engine gives the bits that the definition gives."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from taskalg.engines.base import Factors
from taskalg.engines.cpu import CpuEngine
from taskalg.engines.instructions import TILE_COLUMNS, TILE_ROWS
from taskalg.engines.reference import ReferenceEngine, fused

Matrix = NDArray[np.float64]
NUMBERS = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False, width=32),
    st.sampled_from([0.0, -0.0, 1.0, -1.0, 5e-324, 1e308, 2.0**-1074, 1 + 2.0**-52]),
)
ANYTHING = st.one_of(NUMBERS, st.sampled_from([math.inf, -math.inf, math.nan]))


def chain(lefts: list[float], rights: list[float], scale: float) -> float:
    """The definition, with exact rationals: start from the first product, round each step."""
    total: float | None = None
    for left, right in zip(lefts, rights, strict=True):
        exact = Fraction(left) * Fraction(right)
        if total is None:
            total = float(exact) if exact else left * right
            continue
        whole = exact + Fraction(total)
        total = float(whole) if whole else left * right + total
    assert total is not None
    return total * scale


@st.composite
def products(draw: st.DrawFn, numbers: st.SearchStrategy[float] = NUMBERS) -> Factors:
    rows, rank = draw(st.integers(1, 2 * TILE_ROWS + 1)), draw(st.integers(1, 6))
    columns = draw(st.integers(1, 2 * TILE_COLUMNS + 1))

    def matrix(height: int, width: int) -> Matrix:
        size = height * width
        values = draw(st.lists(numbers, min_size=size, max_size=size))
        return np.array(values, np.float64).reshape(height, width)

    scale = draw(st.sampled_from([1.0, 2.0, 0.1, -1 / 3]))
    return Factors(matrix(rows, rank), matrix(rank, columns), scale)


def evaluated(engine: CpuEngine | ReferenceEngine, factors: Factors, part: range) -> bytes:
    output = np.full(len(part), 7.0)
    engine.factored(factors)(part.start, output.view(np.uint8))
    return output.tobytes()


def whole(factors: Factors) -> range:
    return range(len(factors.left) * factors.right.shape[1])


@given(products(st.sampled_from([0.0, -0.0, 1.5, -2.25, 1 / 3, 1e-200, -7e100])))
def test_the_engines_give_what_the_definition_gives(factors: Factors) -> None:
    expected = [
        chain(row, column, factors.scale)
        for row in factors.left.tolist()
        for column in factors.right.T.tolist()
    ]
    wanted = np.array(expected).tobytes()
    assert evaluated(ReferenceEngine(), factors, whole(factors)) == wanted
    assert evaluated(CpuEngine(), factors, whole(factors)) == wanted


@given(products(ANYTHING))
def test_the_engines_agree_on_every_number(factors: Factors) -> None:
    exact, fast = (
        np.frombuffer(evaluated(engine, factors, whole(factors)))
        for engine in (ReferenceEngine(), CpuEngine())
    )
    assert np.array_equal(exact, fast, equal_nan=True)
    signs = [np.signbit(found) | np.isnan(found) for found in (exact, fast)]
    assert np.array_equal(signs[0], signs[1])


@given(products(), st.data())
def test_a_range_is_a_part_of_the_whole(factors: Factors, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(whole(factors)) - 1))
    stop = data.draw(st.integers(start + 1, len(whole(factors))))
    everything = evaluated(CpuEngine(), factors, whole(factors))
    assert evaluated(CpuEngine(), factors, range(start, stop)) == everything[8 * start : 8 * stop]


def test_subnormal_numbers_survive_a_library_that_flushes_them() -> None:
    import torch

    tiny = np.array([[2.0**-1060]])
    factors = Factors(tiny, np.array([[0.5, 1.0]]), 1.0)
    wanted = evaluated(ReferenceEngine(), factors, range(2))
    flushes = torch.set_flush_denormal(True)
    try:
        found = evaluated(CpuEngine(), factors, range(2))
    finally:
        torch.set_flush_denormal(False)
    assert flushes
    assert found == wanted != bytes(16)


@pytest.mark.parametrize("shape", [(3, 700, 5), (64, 16, 129), (1, 1, 1), (130, 3, 8)])
def test_shapes_beside_the_tile_s(shape: tuple[int, int, int]) -> None:
    rows, rank, columns = shape
    rng = np.random.default_rng(rank)
    factors = Factors(rng.normal(size=(rows, rank)), rng.normal(size=(rank, columns)), 0.25)
    output = np.empty(rows * columns)
    CpuEngine().factored(factors)(0, output.view(np.uint8))
    near = (factors.left @ factors.right * 0.25).ravel()
    assert np.allclose(output, near, rtol=1e-12, atol=1e-12)
    row, column = rows - 1, columns - 1
    exact = chain(factors.left[row].tolist(), factors.right[:, column].tolist(), 0.25)
    assert output[-1] == exact


@given(ANYTHING, ANYTHING, ANYTHING)
def test_the_reference_s_fused_multiply_add(x: float, y: float, z: float) -> None:
    found = fused(x, y, z)
    if not all(map(math.isfinite, (x, y, z))):
        finite = math.isfinite(x) and math.isfinite(y)
        plain = z if finite else x * y + z
        assert found == plain or (math.isnan(found) and math.isnan(plain))
        return
    exact = Fraction(x) * Fraction(y) + Fraction(z)
    if math.isfinite(found):
        step = Fraction(math.ulp(found))
        assert abs(Fraction(found) - exact) <= step / 2
    else:
        assert abs(exact) >= Fraction(2) ** 1024 - Fraction(2) ** 970
