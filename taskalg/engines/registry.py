"""THE TABLE of engines, and the only place that imports one.

A row holds a module's name, not the module: numba takes a third of a second to import and triton
far longer, and a plan that is only printed needs neither.
"""

from importlib import import_module

from taskalg.engines.base import Engine
from taskalg.errors import UsageError, listed, quoted

ENGINES = {  # name: (module, class)
    "cpu": ("taskalg.engines.cpu", "CpuEngine"),
    "gpu": ("taskalg.engines.gpu.engine", "GpuEngine"),
    "reference": ("taskalg.engines.reference", "ReferenceEngine"),
}
AUTOMATIC = "cpu"  # what `auto` means; never a trial run, so that a name always means one engine


def check_engine(name: str) -> str:
    """Return the name of the engine that is meant, without importing it.

    Raises:
        UsageError: no engine has that name.
    """
    chosen = AUTOMATIC if name == "auto" else name
    if chosen not in ENGINES:
        names = listed(["auto", *ENGINES])
        raise UsageError(f"no engine is named {quoted(name)}", note=f"there are {names}")
    return chosen


def get_engine(name: str) -> Engine:
    """Return the engine of that name; `auto` lets the package choose.

    Raises:
        UsageError: no engine has that name.
    """
    module, attribute = ENGINES[check_engine(name)]
    engine: Engine = getattr(import_module(module), attribute)()
    return engine
