"""What an export of an adapter did, as text and as JSON."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskalg.adapters.factorize import Norms
from taskalg.errors import listed, printable, quoted
from taskalg.planning.plan import Plan
from taskalg.units import bytes_text

_SHOWN = 3  # names in a line of the receipt; the JSON has all


@dataclass(frozen=True)
class Residual:
    """How well one tensor is kept."""

    name: str
    rank: int  # of its factors; 0 when the adapter does not have it
    norms: Norms


@dataclass(frozen=True)
class AdapterReport:
    """What was written, and what the adapter leaves over of the task vector."""

    out: Path
    plan: Plan
    residuals: tuple[Residual, ...]  # of each tensor the adapter has, in the plan's order
    left_out: tuple[Residual, ...]  # tensors that change, and that no adapter can hold
    notes: tuple[str, ...]  # what a user should know, a sentence each
    bytes_read: int  # [bytes]
    bytes_written: int  # [bytes]
    seconds: float
    peak_memory: int  # largest resident size of this process so far [bytes]

    @property
    def residual(self) -> float:
        """What is left over of the whole task vector, as a share of it in the Frobenius norm."""
        return total_norms((*self.residuals, *self.left_out)).residual

    @property
    def _of_modules(self) -> float:
        return total_norms(self.residuals).residual

    def __str__(self) -> str:
        modules = f"{len(self.residuals):,} module{'' if len(self.residuals) == 1 else 's'}"
        ranks = sorted({found.rank for found in self.residuals})
        rank = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {ranks[0]} to {ranks[-1]}"
        size = bytes_text(self.bytes_written)
        lines = [
            f"wrote {printable(str(self.out))}  adapter, {modules}, {rank}, {size}",
            f"read {bytes_text(self.bytes_read)} · {self.seconds:.1f} s · "
            f"peak {bytes_text(self.peak_memory)} · residual {_share(self.residual)}",
        ]
        worst = sorted(self.residuals, key=lambda found: -found.norms.residual)
        if worst and worst[0].norms.residual > 1e-4:
            shown = [f"{quoted(w.name)} {_share(w.norms.residual)}" for w in worst[:_SHOWN]]
            lines.append(f"largest residuals, of modules: {', '.join(shown)}")
        if self.left_out:
            count = f"{len(self.left_out):,} tensor{'' if len(self.left_out) == 1 else 's'}"
            names = listed([quoted(found.name) for found in self.left_out[:_SHOWN]], "or")
            lines.append(f"note: {count} changed that no adapter can hold, like {names}")
            lines.append(f"      without them the residual is {_share(self._of_modules)}")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    __repr__ = __str__

    def to_json(self) -> dict[str, Any]:
        """Return everything as a JSON object; residuals by tensor."""
        return {
            "schema": 1,
            "out": str(self.out),
            "kind": str(self.plan.kind),
            "simplified": str(self.plan.total),
            "residual": self.residual,
            "residuals": {
                found.name: {"rank": found.rank, "residual": found.norms.residual}
                for found in self.residuals
            },
            "left_out": [found.name for found in self.left_out],
            "notes": list(self.notes),
            "bytes_read": self.bytes_read,
            "bytes_written": self.bytes_written,
            "seconds": self.seconds,
            "peak_memory": self.peak_memory,
        }


def total_norms(found: Sequence[Residual]) -> Norms:
    """Add up the norms of tensors."""
    return sum((one.norms for one in found), Norms(0.0, 0.0))


def _share(value: float) -> str:
    return f"{100 * value:.3g} %"
