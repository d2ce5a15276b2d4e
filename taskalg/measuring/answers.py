"""Answers to scalar expressions, one after the other: what was measured once is not read again."""

from collections.abc import Callable
from dataclasses import dataclass

from taskalg.expression import Expression
from taskalg.measuring.frame import Frame, Measuring, frame_of
from taskalg.measuring.numbering import measured_operands, number
from taskalg.measuring.store import Store
from taskalg.planned import check_declared
from taskalg.planning.donor import opened
from taskalg.running.stream import Progress, Settings

_FRAMES = 32  # kept in memory; others are on disk


@dataclass(frozen=True)
class Answer:
    """The number of a scalar expression."""

    value: float
    told: str  # "measured in one pass over 2 checkpoints, 1.2 s; kept"; empty when nothing was


class Answers:
    """Measures what scalar expressions need, and keeps it.

    Args:
        store: where products are kept between sessions; the user's own by default.
    """

    def __init__(self, store: Store | None = None) -> None:
        self._how = Measuring(Settings(), store or Store.of_user())
        self._frames: list[Frame] = []

    def number(
        self, expression: Expression, progress: Callable[[Progress], None] | None = None
    ) -> Answer:
        """Return the number of a scalar expression.

        Args:
            expression: of any checkpoints.
            progress: called while data is read; cancels by raising.

        Raises:
            KindError: it is a checkpoint value.
            UsageError: it depends on the tensor, or a checkpoint was declared without a file.
            MismatchError: checkpoints do not fit, a number is not finite, or a divisor is zero.
            CheckpointError: a file cannot be read.
        """
        total, value = expression.resolved_scalar()
        check_declared(total)
        used = list(dict.fromkeys(measured_operands(total)))
        frame = next((one for one in self._frames if one.covers(used)), None)
        self._how.settings, self._how.passes = Settings(progress=progress), []
        if frame is None:
            frame = frame_of(total, used, [], self._how)
            if not any(opened(operand).arrays for operand in used):  # memory may change unseen
                self._frames = [frame, *self._frames[: _FRAMES - 1]]
        return Answer(number(frame, total, value), _told(self._how))


def _told(how: Measuring) -> str:
    found = [one for one in how.passes if one.checkpoints]
    if not found:
        return ""
    seconds = sum(one.seconds for one in found)
    count, most = len(found), max(one.checkpoints for one in found)
    passes = "one pass" if count == 1 else f"{count} passes"
    files = f"{most} checkpoint{'' if most == 1 else 's'}"
    kept = "; kept" if how.store.folder is not None else ""
    return f"measured in {passes} over {files}, {seconds:.1f} s{kept}"
