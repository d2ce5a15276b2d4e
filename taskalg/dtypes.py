"""The element types a checkpoint can hold: one table, shared by readers, engines and writers.

A floating type is described by the three numbers that rounding needs. With precision `p` and the
exponents `low` and `high`, its finite values are the multiples of 2**(low - p + 1) below
2**(high + 1) whose significand has at most `p` bits, up to `largest`.
"""

from dataclasses import dataclass
from fractions import Fraction

from taskalg.errors import UsageError, quoted


@dataclass(frozen=True)
class DType:
    """One element type."""

    name: str  # the short name used on the command line and in reports: bf16
    code: str  # its name in a safetensors header: BF16
    itemsize: int  # [bytes]
    torch: str  # its name in torch and in a Hugging Face config: bfloat16
    precision: int = 0  # bits of significand, the hidden one included; 0 when it is not floating
    low: int = 0  # exponent of the smallest normal value
    high: int = 0  # exponent of the largest finite value
    has_inf: bool = True  # False for e4m3, whose only special value is NaN

    @property
    def is_floating(self) -> bool:
        """Whether a weighted sum may be taken over it; integers and booleans are copied."""
        return self.precision > 0

    @property
    def largest(self) -> Fraction:
        """The largest finite value, exactly."""
        steps = 2**self.precision - (1 if self.has_inf else 2)
        return Fraction(steps) * Fraction(2) ** (self.high - self.precision + 1)

    def __repr__(self) -> str:
        return self.name


BF16 = DType("bf16", "BF16", 2, "bfloat16", 8, -126, 127)
F16 = DType("f16", "F16", 2, "float16", 11, -14, 15)
F32 = DType("f32", "F32", 4, "float32", 24, -126, 127)
F64 = DType("f64", "F64", 8, "float64", 53, -1022, 1023)
F8_E4M3 = DType("f8_e4m3", "F8_E4M3", 1, "float8_e4m3fn", 4, -6, 8, has_inf=False)
F8_E5M2 = DType("f8_e5m2", "F8_E5M2", 1, "float8_e5m2", 3, -14, 15)

FLOATING = (BF16, F16, F32, F64, F8_E4M3, F8_E5M2)
INTEGER = (
    DType("bool", "BOOL", 1, "bool"),
    DType("u8", "U8", 1, "uint8"),
    DType("i8", "I8", 1, "int8"),
    DType("u16", "U16", 2, "uint16"),
    DType("i16", "I16", 2, "int16"),
    DType("u32", "U32", 4, "uint32"),
    DType("i32", "I32", 4, "int32"),
    DType("u64", "U64", 8, "uint64"),
    DType("i64", "I64", 8, "int64"),
)
BY_CODE = {dtype.code: dtype for dtype in FLOATING + INTEGER}

_ALIASES = {"half": F16, "fp16": F16, "float": F32, "fp32": F32, "double": F64, "fp64": F64}
_ALIASES |= {"f8_e4m3fn": F8_E4M3, "float8_e4m3": F8_E4M3, "fp8_e4m3": F8_E4M3}
_ALIASES |= {"fp8_e5m2": F8_E5M2}
_BY_NAME = _ALIASES | {word: dtype for dtype in FLOATING for word in (dtype.name, dtype.torch)}


def floating_dtype(name: str) -> DType:
    """Return the floating dtype a user means by `name`: `bf16`, `bfloat16`, or `torch.bfloat16`.

    Raises:
        UsageError: no floating dtype has that name.
    """
    found = _BY_NAME.get(name.lower().removeprefix("torch."))
    if found is None:
        names = ", ".join(dtype.name for dtype in FLOATING)
        raise UsageError(f"no floating dtype is named {quoted(name)}", note=f"there are {names}")
    return found
