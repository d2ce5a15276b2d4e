"""Task arithmetic over model checkpoints, written as expressions."""

from taskalg.algebra.kinds import Kind
from taskalg.api import analogy, checkpoint, compile, cos, dot, lerp, mean, norm, ramp, task
from taskalg.errors import (
    CheckpointError,
    ExpressionError,
    KindError,
    MismatchError,
    OutputError,
    OverflowingError,
    TaskalgError,
    UnknownNameError,
    UsageError,
    VerificationError,
)
from taskalg.measuring.geometry import Geometry, geometry
from taskalg.measuring.parts import Part
from taskalg.pictures.canvas import save_figure
from taskalg.pictures.cosines import cosines_figure
from taskalg.pictures.norms import norms_figure
from taskalg.pictures.sweeps import sweep_figure
from taskalg.pretrained import from_pretrained
from taskalg.recipe import Recipe
from taskalg.repeating.rerun import rerun
from taskalg.repeating.verify import Verification, verify
from taskalg.running.report import Report
from taskalg.running.stream import Progress
from taskalg.selection import exclude
from taskalg.sweeping.sweep import sweep
from taskalg.sweeping.values import Point, Sweep
from taskalg.version import __version__
from taskalg.workbench.extension import load_ipython_extension

__all__ = [
    "CheckpointError",
    "ExpressionError",
    "Geometry",
    "Kind",
    "KindError",
    "MismatchError",
    "OutputError",
    "OverflowingError",
    "Part",
    "Point",
    "Progress",
    "Recipe",
    "Report",
    "Sweep",
    "TaskalgError",
    "UnknownNameError",
    "UsageError",
    "Verification",
    "VerificationError",
    "__version__",
    "analogy",
    "checkpoint",
    "compile",
    "cos",
    "cosines_figure",
    "dot",
    "exclude",
    "from_pretrained",
    "geometry",
    "lerp",
    "load_ipython_extension",
    "mean",
    "norm",
    "norms_figure",
    "ramp",
    "rerun",
    "save_figure",
    "sweep",
    "sweep_figure",
    "task",
    "verify",
]
