"""What decides the bytes of an output, as one number: plans of the same digest write the same.

The names of the inputs do not count, nor does how they are called in the expression: which of their
bytes are read counts, with which coefficients, and what is made of them. That the files are still
the same is for their fingerprints to say.
"""

import hashlib

from taskalg.planning.plan import Plan
from taskalg.version import __version__


def plan_digest(plan: Plan, fail_on_overflow: bool) -> str:
    """Return the digest of a plan, in hexadecimal.

    Args:
        plan: what will be read, combined and written.
        fail_on_overflow: whether an overflow stops a run. A run that would stop must not go on from
            one that did not.
    """
    found = hashlib.sha256(repr((__version__, fail_on_overflow, plan.kind.name)).encode())
    for combination in plan.combinations:
        numbers = [str(value) for value in combination.coefficients]
        codes = [dtype.code for dtype in (*combination.inputs, combination.output)]
        found.update(repr((combination.operands, numbers, codes)).encode())
    for step in plan.steps:
        sources = [(source.shard, source.offset, source.factors) for source in step.sources]
        found.update(repr((step.name, step.combination, step.first, sources)).encode())
    return found.hexdigest()
