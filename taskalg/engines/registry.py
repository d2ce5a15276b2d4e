"""THE TABLE of engines, and the only place that imports one.

A row holds a module's name, not the module: numba takes a third of a second to import and triton
far longer, and a plan that is only printed needs neither.
"""

from importlib import import_module

from taskalg.engines.base import Engine
from taskalg.engines.gpu.device import unavailable
from taskalg.errors import UsageError, listed, quoted

ENGINES = {  # name: (module, class)
    "cpu": ("taskalg.engines.cpu", "CpuEngine"),
    "gpu": ("taskalg.engines.gpu.engine", "GpuEngine"),
    "reference": ("taskalg.engines.reference", "ReferenceEngine"),
}
# What `auto` means for files. Where operands lie on a GPU, memory/ asks for that one. Never a trial
# run, so that a name always means one engine.
AUTOMATIC = "cpu"


def check_engine(name: str) -> str:
    """Return the name of the engine that is meant, without importing it.

    Raises:
        UsageError: no engine has that name, or this machine has nothing it could run on.
    """
    chosen = AUTOMATIC if name == "auto" else name
    if chosen not in ENGINES:
        names = listed(["auto", *ENGINES])
        raise UsageError(f"no engine is named {quoted(name)}", note=f"there are {names}")
    if chosen == "gpu" and (reason := unavailable()) is not None:
        raise reason
    return chosen


def get_engine(name: str) -> Engine:
    """Return the engine of that name; `auto` lets the package choose.

    Raises:
        UsageError: no engine has that name.
    """
    module, attribute = ENGINES[check_engine(name)]
    engine: Engine = getattr(import_module(module), attribute)()
    return engine
