"""Single machine instructions that numba's Python cannot spell.

Each function here is one or two LLVM instructions with fixed types. numba's own integer rules widen
every operand to 64 bits, which halves or quarters the number of elements a vector holds, and it has
neither bit casts between scalars nor a fused multiply-add. Blocks are reached through addresses, so
that a read-only array or an odd alignment does not compile a kernel again.
"""

import platform
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

_I32, _I64 = ir.IntType(32), ir.IntType(64)
_F32, _F64 = ir.FloatType(), ir.DoubleType()

# Elements of a product computed together. Four chains of eight hide the latency of a multiply-add
# and fit the registers of AVX-512, AVX2 and NEON.
TILE_ROWS, TILE_COLUMNS = 4, 8

Emit = Callable[[Any, Any], Any]  # (IR builder, argument values) -> value


def _native(function: Callable[..., Any]) -> Any:
    return intrinsic(function)


def _instruction(result: Any, parameters: tuple[Any, ...], emit: Emit) -> Any:
    """Give numba what it wants of an intrinsic: a signature and a code generator."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return emit(builder, arguments)

    return result(*parameters), generate


@_native
def load(typing: Any, address: Any, index: Any, kind: Any) -> Any:
    """Read an element of the array at `address`, of the NumPy scalar or array type `kind`."""
    element = kind.dtype

    def emit(builder: Any, arguments: Any) -> Any:
        pointer = builder.inttoptr(arguments[0], _ir_type(element).as_pointer())
        slot = builder.gep(pointer, [arguments[1]])
        return builder.load(slot, align=element.bitwidth // 8)

    return _instruction(element, (types.int64, types.int64, kind), emit)


@_native
def store(typing: Any, address: Any, index: Any, kind: Any, value: Any) -> Any:
    """Write the low bits of a 64-bit integer as an element of the array at `address`."""
    element = kind.dtype

    def emit(builder: Any, arguments: Any) -> Any:
        kind_ir = _ir_type(element)
        pointer = builder.inttoptr(arguments[0], kind_ir.as_pointer())
        bits = arguments[3]
        narrow = bits if element.bitwidth == 64 else builder.trunc(bits, kind_ir)
        slot = builder.gep(pointer, [arguments[1]])
        builder.store(narrow, slot, align=element.bitwidth // 8)
        return ir.Constant(_I64, 0)

    return _instruction(types.int64, (types.int64, types.int64, kind, types.uint64), emit)


def _ir_type(element: Any) -> Any:
    return ir.IntType(element.bitwidth)


@_native
def width(typing: Any, kind: Any) -> Any:
    """Return an element's bits; a constant, so that code for other widths is never generated."""
    return _instruction(types.int64, (kind,), lambda b, a: ir.Constant(_I64, kind.dtype.bitwidth))


@_native
def widen(typing: Any, pattern: Any, shift: Any, mask: Any) -> Any:
    """Decode a pattern of up to 32 bits to binary64, short of a power of two (formats.py)."""

    def emit(builder: Any, arguments: Any) -> Any:
        bits, shift, mask = arguments
        placed = builder.and_(builder.shl(builder.sext(bits, _I64), shift), mask)
        return builder.bitcast(placed, _F64)

    return _instruction(types.float64, (pattern, types.uint64, types.uint64), emit)


@_native
def magnitude(typing: Any, pattern: Any) -> Any:
    """Clear the sign bit, without widening."""

    def emit(builder: Any, arguments: Any) -> Any:
        largest = (1 << pattern.bitwidth - 1) - 1
        return builder.and_(arguments[0], ir.Constant(_ir_type(pattern), largest))

    return _instruction(pattern, (pattern,), emit)


@_native
def less_one(typing: Any, pattern: Any) -> Any:
    """Subtract one, without widening: zero becomes the largest pattern."""

    def emit(builder: Any, arguments: Any) -> Any:
        return builder.sub(arguments[0], ir.Constant(_ir_type(pattern), 1))

    return _instruction(pattern, (pattern,), emit)


@_native
def bits(typing: Any, value: Any) -> Any:
    """Return the pattern of a binary64 number."""
    return _instruction(types.uint64, (types.float64,), lambda b, a: b.bitcast(a[0], _I64))


@_native
def number(typing: Any, pattern: Any) -> Any:
    """Return the binary64 number of a pattern."""
    return _instruction(types.float64, (types.uint64,), lambda b, a: b.bitcast(a[0], _F64))


@_native
def copy_sign(typing: Any, value: Any, sign: Any) -> Any:
    """Set the sign bit of `value` if that of `sign` is set."""

    def emit(builder: Any, arguments: Any) -> Any:
        value, sign = (builder.bitcast(argument, _I64) for argument in arguments)
        negative = builder.and_(sign, ir.Constant(_I64, 1 << 63))
        return builder.bitcast(builder.or_(value, negative), _F64)

    return _instruction(types.float64, (types.float64,) * 2, emit)


@_native
def binary32(typing: Any, value: Any) -> Any:
    """Return the pattern of the binary32 number nearest to a binary64 one."""

    def emit(builder: Any, arguments: Any) -> Any:
        return builder.bitcast(builder.fptrunc(arguments[0], _F32), _I32)

    return _instruction(types.uint32, (types.float64,), emit)


@_native
def narrow(typing: Any, pattern: Any, shift: Any, cap: Any, kind: Any) -> Any:
    """Turn a binary32 pattern with few bits of fraction into one of the type of array `kind`.

    `shift` drops the lowest bits of the magnitude, which is at most `cap`; the sign keeps its place
    at the top.
    """
    element = kind.dtype

    def emit(builder: Any, arguments: Any) -> Any:
        pattern, shift, cap, _ = arguments
        size = builder.and_(pattern, ir.Constant(_I32, 2**31 - 1))
        least = builder.select(builder.icmp_unsigned("<", size, cap), size, cap)
        above = builder.lshr(pattern, ir.Constant(_I32, 32 - element.bitwidth))
        sign = builder.and_(above, ir.Constant(_I32, 1 << element.bitwidth - 1))
        return builder.zext(builder.or_(builder.lshr(least, shift), sign), _I64)

    return _instruction(types.uint64, (types.uint32, types.uint32, types.uint32, kind), emit)


@_native
def fma(typing: Any, x: Any, y: Any, z: Any) -> Any:
    """Return `x * y + z`, rounded once."""
    return _instruction(types.float64, (types.float64,) * 3, lambda b, a: b.fma(*a))


@_native
def multiply_tile(typing: Any, lines: Any, packed: Any, rank: Any, scale: Any, places: Any) -> Any:
    """Multiply rows of a left factor with packed columns of a right one, in registers.

    `lines` are the addresses of TILE_ROWS rows of `rank` numbers, `packed` that of an array
    `(rank, TILE_COLUMNS)`, `places` those of the rows of results. Every element is the chain that
    base.py defines. LLVM does not find this tile itself: it keeps the chains in memory, which
    takes three times as long.
    """
    vector, name = ir.VectorType(_F64, TILE_COLUMNS), f"llvm.fma.v{TILE_COLUMNS}f64"

    def emit(builder: Any, arguments: Any) -> Any:
        lines, packed, rank, scale, places = arguments
        rows, results = (
            [
                builder.inttoptr(builder.extract_value(addresses, row), kind.as_pointer())
                for row in range(TILE_ROWS)
            ]
            for addresses, kind in ((lines, _F64), (places, vector))
        )
        columns = builder.inttoptr(packed, vector.as_pointer())
        chains = [builder.alloca(vector) for _ in rows]
        for chain in chains:  # -0.0 is the only zero that a first product is added to unchanged
            builder.store(ir.Constant(vector, [-0.0] * TILE_COLUMNS), chain)
        with cgutils.for_range(builder, rank) as loop:
            right = builder.load(builder.gep(columns, [loop.index]), align=8)
            for row, chain in zip(rows, chains, strict=True):
                number = builder.load(builder.gep(row, [loop.index]))
                left = _spread_out(builder, number, vector)
                added = [left, right, builder.load(chain)]
                builder.store(_call(builder, name, vector, added), chain)
        factor = _spread_out(builder, scale, vector)
        for chain, result in zip(chains, results, strict=True):
            builder.store(builder.fmul(builder.load(chain), factor), result, align=8)
        return ir.Constant(_I64, 0)

    addresses: Any = types.UniTuple(types.int64, TILE_ROWS)  # type: ignore[no-untyped-call]
    parameters = (addresses, types.int64, types.int64, types.float64, addresses)
    return _instruction(types.int64, parameters, emit)


def _spread_out(builder: Any, number: Any, vector: Any) -> Any:
    """Return a vector of equal numbers."""
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), number, ir.Constant(_I32, 0))
    mask = ir.Constant(ir.VectorType(_I32, TILE_COLUMNS), [0] * TILE_COLUMNS)
    return builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), mask)


@_native
def default_arithmetic(typing: Any) -> Any:
    """Round to nearest and keep subnormals; return what was set before, for `set_arithmetic`.

    A library loaded with -ffast-math, or `torch.set_flush_denormal`, changes both for a thread and
    those it starts.
    """

    def emit(builder: Any, arguments: Any) -> Any:
        before = _read_control(builder)
        _write_control(builder, ir.Constant(_I64, _X86_DEFAULT if _IS_X86 else 0))
        return before

    return _instruction(types.int64, (), emit)


@_native
def set_arithmetic(typing: Any, control: Any) -> Any:
    """Set rounding and subnormals to what `default_arithmetic` returned."""

    def emit(builder: Any, arguments: Any) -> Any:
        _write_control(builder, arguments[0])
        return arguments[0]

    return _instruction(types.int64, (types.int64,), emit)


_IS_X86 = platform.machine().lower() in ("x86_64", "amd64")
_IS_ARM = platform.machine().lower() in ("aarch64", "arm64")
_X86_DEFAULT = 0x1F80  # no exception traps, nothing flushed, nearest even; ARM's is 0


def _read_control(builder: Any) -> Any:
    if _IS_X86:
        slot = builder.alloca(_I32)
        _call(builder, "llvm.x86.sse.stmxcsr", ir.VoidType(), [_as_bytes(builder, slot)])
        return builder.zext(builder.load(slot), _I64)
    if _IS_ARM:
        return _call(builder, "llvm.aarch64.get.fpcr", _I64, [])
    return ir.Constant(_I64, 0)


def _write_control(builder: Any, value: Any) -> None:
    if _IS_X86:
        slot = builder.alloca(_I32)
        builder.store(builder.trunc(value, _I32), slot)
        _call(builder, "llvm.x86.sse.ldmxcsr", ir.VoidType(), [_as_bytes(builder, slot)])
    elif _IS_ARM:
        _call(builder, "llvm.aarch64.set.fpcr", ir.VoidType(), [value])


def _as_bytes(builder: Any, slot: Any) -> Any:
    return builder.bitcast(slot, ir.IntType(8).as_pointer())


def _call(builder: Any, name: str, result: Any, arguments: list[Any]) -> Any:
    function_type = ir.FunctionType(result, [argument.type for argument in arguments])
    function = builder.module.globals.get(name)
    if function is None:
        function = ir.Function(builder.module, function_type, name)
    return builder.call(function, arguments)
