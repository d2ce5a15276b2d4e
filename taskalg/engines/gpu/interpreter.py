"""What Triton's interpreter lacks: a multiply-add that rounds once, and comparisons that are bits.

The interpreter's own `tl.fma` rounds twice, and without one that does not the double-double tier is
nothing; its comparisons have the dtype of what they compare, which some masks then have, too.
Kernels stay as they are on a GPU. Only the interpreter's operations are replaced, the multiply-add
by the CPU engine's instruction.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from taskalg.engines.cache import compiled
from taskalg.engines.instructions import fma


@compiled
def _fused(x: Any, y: Any, z: Any, results: Any) -> None:
    for index in range(len(results)):
        results[index] = fma(x[index], y[index], z[index])


def mend() -> None:
    """Replace operations of the interpreter."""
    from triton import language
    from triton.runtime import interpreter

    builder: Any = interpreter.InterpreterBuilder
    handle: Any = interpreter.TensorHandle

    def create_fma(self: Any, x: Any, y: Any, z: Any) -> Any:
        first, second, third = (np.ascontiguousarray(part.data).ravel() for part in (x, y, z))
        results = np.empty_like(third)
        _fused(first, second, third, results)
        return handle(results.reshape(np.shape(z.data)), z.dtype.scalar)

    def told(compare: Callable[..., Any]) -> Callable[..., Any]:
        return lambda self, x, y: handle(compare(self, x, y).data.astype(bool), language.int1)

    builder.create_fma = create_fma
    for name in [name for name in dir(builder) if name.startswith(("create_icmp", "create_fcmp"))]:
        setattr(builder, name, told(getattr(builder, name)))
