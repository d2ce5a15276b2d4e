"""Vectors of binary64 numbers, and of their signs, that numba's Python cannot spell.

As in instructions.py, each function here is a few LLVM instructions with fixed types; LLVM finds
neither sums that are kept in registers nor words of signs in a loop over elements.
"""

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types

from taskalg.engines.instructions import _call, _instruction, _native, _spread_out

LANES = 8  # numbers of a vector: one of AVX-512, two of AVX2, four of NEON

_I64, _F64 = ir.IntType(64), ir.DoubleType()
_ZEROS, _BITS = [0.0] * LANES, ir.IntType(LANES)
_FMA = f"llvm.fma.v{LANES}f64"
_alloca: Any = cgutils.alloca_once_value  # its types vary with numba's version
_NUMBERS, _WORDS = ir.VectorType(_F64, LANES), ir.VectorType(_I64, LANES)


@_native
def multiply_strips(typing: Any, lefts: Any, rights: Any, sums: Any, count: Any) -> Any:
    """Multiply each of some strips with each of others, and add the products to their sums.

    `lefts` and `rights` are tuples of addresses of strips, of `count` vectors each; `sums` is that
    of the addresses of vectors, by left and then by right. Each chain of multiply-adds starts from
    zero, and its end is added to the sum.
    """

    def emit(builder: Any, arguments: Any) -> Any:
        lefts, rights, sums = (_vectors(builder, addresses) for addresses in arguments[:3])
        zero = ir.Constant(_NUMBERS, _ZEROS)
        chains = [_alloca(builder, zero) for _ in sums]
        for chain in chains:
            builder.store(zero, chain)
        with cgutils.for_range(builder, arguments[3]) as loop:
            x, y = ([_at(builder, one, loop.index) for one in side] for side in (lefts, rights))
            for chain, (left, right) in zip(chains, ((a, b) for a in x for b in y), strict=True):
                operands = [left, right, builder.load(chain)]
                builder.store(_call(builder, _FMA, _NUMBERS, operands), chain)
        for chain, total in zip(chains, sums, strict=True):
            before = builder.load(total, align=8)
            builder.store(builder.fadd(before, builder.load(chain)), total, align=8)
        return ir.Constant(_I64, 0)

    return _instruction(types.int64, (lefts, rights, sums, types.int64), emit)


def _vectors(builder: Any, addresses: Any) -> list[Any]:
    pointer, places = _NUMBERS.as_pointer(), range(addresses.type.count)
    return [builder.inttoptr(builder.extract_value(addresses, p), pointer) for p in places]


def _at(builder: Any, vectors: Any, index: Any) -> Any:
    return builder.load(builder.gep(vectors, [index]), align=8)


@_native
def form_strip(
    typing: Any,
    strip: Any,
    source: Any,
    start: Any,
    kind: Any,
    factors: Any,
    other: Any,
    count: Any,
) -> Any:
    """Form `count` vectors of `first * x + second * y`, and note their signs.

    `strip` is the address of the result, which is followed by bits: of each number whether it is
    not zero, and then of each whether it is negative. x are the elements of the array at `source`
    from `start` on, of the NumPy type `kind`: binary64, binary32, or the upper half of that,
    bfloat16; infinities and NaN stay what they are. y are the binary64 numbers at `other`.
    """
    element = _F64 if kind.dtype.bitwidth == 64 else ir.IntType(kind.dtype.bitwidth)

    def emit(builder: Any, arguments: Any) -> Any:
        strip, source, start, _, factors, other, count = arguments
        first, second = (
            _spread_out(builder, builder.extract_value(factors, place), _NUMBERS)
            for place in (0, 1)
        )
        results, y = (builder.inttoptr(a, _NUMBERS.as_pointer()) for a in (strip, other))
        nonzero = builder.bitcast(builder.gep(results, [count]), _BITS.as_pointer())
        negative = builder.gep(nonzero, [count])
        x = builder.gep(builder.inttoptr(source, element.as_pointer()), [start])
        x = builder.bitcast(x, ir.VectorType(element, LANES).as_pointer())
        with cgutils.for_range(builder, count) as loop:
            decoded = _decoded(builder, builder.gep(x, [loop.index]), element)
            scaled = builder.fmul(first, decoded)
            found = _call(builder, _FMA, _NUMBERS, [second, _at(builder, y, loop.index), scaled])
            builder.store(found, builder.gep(results, [loop.index]), align=8)
            patterns = builder.bitcast(found, _WORDS)
            for marks, bits in (
                (nonzero, builder.fcmp_unordered("!=", found, ir.Constant(_NUMBERS, _ZEROS))),
                (negative, builder.icmp_signed("<", patterns, ir.Constant(_WORDS, [0] * LANES))),
            ):
                byte = builder.bitcast(bits, _BITS)
                builder.store(byte, builder.gep(marks, [loop.index]))
        return ir.Constant(_I64, 0)

    pair: Any = types.UniTuple(types.float64, 2)  # type: ignore[no-untyped-call]
    parameters = (types.int64, types.int64, types.int64, kind, pair, types.int64, types.int64)
    return _instruction(types.int64, parameters, emit)


def _decoded(builder: Any, vector: Any, element: Any) -> Any:
    if element is _F64:
        return builder.load(vector, align=8)
    found = builder.load(vector, align=element.width // 8)
    wide = ir.VectorType(ir.IntType(32), LANES)
    if element.width < 32:
        shift = ir.Constant(wide, [32 - element.width] * LANES)
        found = builder.shl(builder.zext(found, wide), shift)
    numbers = builder.bitcast(found, ir.VectorType(ir.FloatType(), LANES))
    return builder.fpext(numbers, _NUMBERS)


@_native
def count_signs(typing: Any, left: Any, right: Any, counts: Any) -> Any:
    """Count where the signs of two strips of 256 numbers agree, and where neither is zero.

    `left` and `right` are addresses of their bits, `counts` that of two vectors of integers, to
    which the counts are added.
    """
    words = ir.VectorType(_I64, 256 // 64)

    def emit(builder: Any, arguments: Any) -> Any:
        left, right, counts = (builder.inttoptr(a, words.as_pointer()) for a in arguments)
        (x, x_signs), (y, y_signs) = (
            [_at(builder, side, ir.Constant(_I64, part)) for part in (0, 1)]
            for side in (left, right)
        )
        both = builder.and_(x, y)
        agreeing = builder.and_(both, builder.not_(builder.xor(x_signs, y_signs)))
        for part, bits in enumerate((agreeing, both)):
            place = builder.gep(counts, [ir.Constant(_I64, part)])
            counted = _call(builder, f"llvm.ctpop.v{words.count}i64", words, [bits])
            builder.store(builder.add(builder.load(place, align=8), counted), place, align=8)
        return ir.Constant(_I64, 0)

    return _instruction(types.int64, (types.int64,) * 3, emit)
