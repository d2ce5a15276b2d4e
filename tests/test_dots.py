"""Inner products of gradients with operands: right to the last bits, and the same on any thread."""

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from taskalg.dtypes import BF16, F8_E5M2, F16, F32, F64, FLOATING, DType
from taskalg.engines.base import Group
from taskalg.engines.dots import BLOCK, LANES, dots

SIZES = (0, 1, 3, LANES - 1, LANES, LANES + 1, 5 * LANES + 7)
Row = Sequence[torch.Tensor]  # a tensor's operands, and then its gradient


def tensors(dtypes: Sequence[DType], count: int, seed: int = 0) -> Row:
    generator = torch.Generator().manual_seed(seed)
    made = [torch.randn(count, generator=generator, dtype=torch.float64) for _ in dtypes]
    return [
        value.to(getattr(torch, dtype.torch)) for value, dtype in zip(made, dtypes, strict=True)
    ]


def group(dtypes: Sequence[DType], rows: Sequence[Row]) -> Group:
    addresses = [[tensor.data_ptr() for tensor in row] for row in rows]
    counts = np.array([row[-1].numel() for row in rows], np.int64)
    where = np.array(addresses, np.int64).reshape(len(rows), len(dtypes))
    return Group(tuple(dtypes[:-1]), dtypes[-1], np.zeros(len(rows), np.int64), where, counts)


def exactly(x: torch.Tensor, gradient: torch.Tensor) -> tuple[float, float]:
    """Return the inner product, and that of the magnitudes, over exact rationals."""
    pairs = zip(x.double().tolist(), gradient.double().tolist(), strict=True)
    found = [Fraction(a) * Fraction(b) for a, b in pairs]
    return float(sum(found)), float(sum(map(abs, found)))


@given(st.lists(st.sampled_from(FLOATING), min_size=1, max_size=11), st.data())
def test_any_dtypes_together_give_what_rationals_give(
    dtypes: list[DType], data: st.DataObject
) -> None:
    counts = data.draw(st.lists(st.sampled_from(SIZES), max_size=4))
    rows = [tensors(dtypes, count, seed) for seed, count in enumerate(counts)]
    found = dots(group(dtypes, rows), threads=2)
    assert found.shape == (len(rows), len(dtypes) - 1)
    for row, products in zip(rows, found, strict=True):
        for x, product in zip(row, products, strict=False):
            wanted, size = exactly(x, row[-1])
            assert abs(product - wanted) <= 1e-15 * size


@pytest.mark.parametrize("dtype", [BF16, F32], ids=repr)
def test_tensors_of_several_blocks_lose_no_more(dtype: DType) -> None:
    row = tensors((dtype,) * 3, 3 * BLOCK + 5)
    for product, x in zip(dots(group((dtype,) * 3, [row]))[0], row, strict=False):
        parts = (x.double() * row[-1].double()).tolist()  # exact: at most 48 bits
        assert abs(product - math.fsum(parts)) <= 1e-15 * math.fsum(map(abs, parts))
        assert product == pytest.approx(math.fsum(parts), rel=1e-12)


def test_the_number_of_threads_changes_no_bit() -> None:
    dtypes = (BF16, F32, F8_E5M2, F16)
    rows = [tensors(dtypes, count) for count in (*SIZES, 2 * BLOCK + 1, 7 * BLOCK)]
    alone = dots(group(dtypes, rows), threads=1)
    assert all(np.array_equal(dots(group(dtypes, rows), threads=n), alone) for n in (2, 3, 7))
    assert np.array_equal(dots(group(dtypes, rows[::-1]), threads=2), alone[::-1])
    assert not np.array_equal(alone, np.round(alone, 12))  # there are bits to change


@pytest.mark.parametrize("dtype", FLOATING, ids=repr)
@pytest.mark.parametrize("place", [0, 2])
@pytest.mark.parametrize("odd", [math.nan, math.inf])
def test_what_is_not_finite_stays_in_its_products(dtype: DType, place: int, odd: float) -> None:
    row = tensors((dtype,) * 3, 2 * LANES)
    row[place][LANES + 3] = odd
    spoilt = not row[place].float().isfinite().all()  # torch may round an infinity to e4m3's 448
    found = dots(group((dtype,) * 3, [row]))[0]
    assert np.isfinite(found).tolist() == [not spoilt, not (spoilt and place == 2)]


def test_subnormals_survive_whatever_the_processor_is_set_to() -> None:
    row = [torch.full((4,), size, dtype=torch.float64) for size in (2.0**-1070, 2.0**200)]
    torch.set_flush_denormal(True)
    try:
        found = float(dots(group((F64, F64), [row]))[0, 0])
    finally:
        torch.set_flush_denormal(False)
    assert found == 2.0**-868


def test_no_tensors_and_no_operands_are_fine() -> None:
    assert dots(group((F32, F32), [])).shape == (0, 1)
    assert dots(group((F32,), [tensors((F32,), 4)])).shape == (1, 0)
