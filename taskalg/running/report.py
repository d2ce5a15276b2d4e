"""What a run did, as a value and as JSON."""

from dataclasses import dataclass
from pathlib import Path

from taskalg.dtypes import DType
from taskalg.engines.base import Tally
from taskalg.errors import OverflowingError, quoted
from taskalg.markup import page, pairs, paragraph
from taskalg.planning.plan import Plan
from taskalg.units import bytes_text


@dataclass(frozen=True)
class Cost:
    """What it took to measure what a sum depends on."""

    bytes_read: int = 0  # tensor data [bytes]
    seconds: float = 0.0


NOTHING = Cost()


@dataclass(frozen=True)
class Report:
    """What a merge did. `str(report)` is one line; `taskalg merge` prints a fuller receipt."""

    out: Path
    plan: Plan
    shards: int  # files of weights written
    bytes_read: int  # tensor data, in all passes, copies and comparisons included [bytes]
    bytes_copied: int  # part of it copied unchanged, and so not scanned for NaN [bytes]
    bytes_written: int  # tensor data written [bytes]
    seconds: float  # of all passes, up to the last fsync
    peak_memory: int  # largest resident size of this process so far [bytes]
    tally: Tally  # what the engine saw
    notes: tuple[str, ...]  # what a user should know, a sentence each

    def __str__(self) -> str:
        size = bytes_text(self.bytes_written)
        return f"Report({len(self.plan.tensors)} tensors, {size}, {self.seconds:.1f} s)"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        shards = f"{self.shards} shard{'' if self.shards == 1 else 's'}"
        written = bytes_text(self.bytes_written)
        rate = (self.bytes_read + self.bytes_written) / max(self.seconds, 1e-9)
        rows = [
            ("tensors", f"{len(self.plan.tensors):,} in {shards}, {written}"),
            ("read", f"{bytes_text(self.bytes_read)} in {self.seconds:.1f} s"),
            ("speed", f"{bytes_text(rate)}/s"),
            ("memory", f"at most {bytes_text(self.peak_memory)}"),
            ("overflowed", f"{self.tally.overflowed:,} results"),
            ("NaN or Inf", f"{self.tally.nonfinite:,} in the inputs"),
            *(("note", note) for note in self.notes),
        ]
        return page(paragraph("wrote", str(self.out)), pairs(rows))


def overflow_error(name: str, dtype: DType) -> OverflowingError:
    """Return the error that a tensor's results are too large."""
    return OverflowingError(
        f"tensor {quoted(name)} overflows {dtype}",
        note="a result is too large for the dtype although every input was finite",
        help="choose a wider --dtype, smaller coefficients, or --on-overflow warn",
    )
