"""What this machine and this process may use."""

import math
import os
import sys
from pathlib import Path

MAX_THREADS = 8  # by default; past that a merge waits for memory, not for cores
_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # "200000 100000", or "max 100000"
_STATUS = Path("/proc/self/status")


def available_threads() -> int:
    """Return the smaller of 8 and the processors that affinity and cgroups leave us."""
    affinity = getattr(os, "sched_getaffinity", None)
    count = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, min(MAX_THREADS, count, _cgroup_processors() or count))


def _cgroup_processors() -> int | None:
    try:
        quota, period = _QUOTA.read_text(encoding="ascii").split()
        return math.ceil(int(quota) / int(period))
    except (OSError, ValueError):
        return None


def peak_memory() -> int:
    """Return the largest resident size of this process so far [bytes]; 0 where none is told."""
    try:  # the kernel's own mark for this program; rusage also counts what exec replaced
        for line in _STATUS.read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
