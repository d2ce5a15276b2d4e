"""A recipe to the transformers model it evaluates to, without a file on the way.

The tensors go through transformers' own loader, as if they had been read from a folder: it builds
the model without random numbers, makes derived buffers, ties weights, renames what its releases
call otherwise, and takes each tensor over without copying it. Rejected: filling an empty model with
`load_into`, which would have to repeat all of that, release by release.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taskalg import files
from taskalg.algebra.kinds import Kind
from taskalg.api import compile
from taskalg.compiler import Weights
from taskalg.dtypes import FLOATING
from taskalg.errors import (
    CheckpointError,
    KindError,
    MismatchError,
    UsageError,
    listed,
    quoted,
)
from taskalg.planning.donor import opened
from taskalg.planning.plan import Plan
from taskalg.recipe import AnyPath, Recipe
from taskalg.scalars import Number

if TYPE_CHECKING:
    import torch

_CONFIG = "config.json"
_INSTALL = "python -m pip install 'transformers>=5.0'"


def from_pretrained(
    source: AnyPath | Recipe,
    *,
    base: Weights | None = None,
    tasks: Mapping[str, Weights | None] | None = None,
    models: Mapping[str, Weights | None] | None = None,
    set: Mapping[str, Number] | None = None,
    model_class: Any = None,
    device: "str | torch.device | None" = None,
    dtype: str | None = None,
) -> Any:
    """Evaluate an expression and return the transformers model, in evaluation mode.

    It is the model that `AutoModel….from_pretrained` makes of the folder that `Recipe.save` writes.
    Config, generation config, and the dtype unless one is given, are the donor's.

    Args:
        source: as for `compile`; or a recipe, whose names are bound already.
        base: as for `compile`.
        tasks: likewise.
        models: likewise.
        set: likewise.
        model_class: a class of transformers, such as `AutoModelForSequenceClassification`; by
            default the one that the donor's config names.
        device: where the model shall be; by default the CPU.
        dtype: of floating tensors, such as "bf16"; by default the donor's.

    Raises:
        MismatchError: the model needs tensors that the result lacks.
        TaskalgError: as `compile` and `Recipe.save` do; or transformers is not installed.

    Memory: the model, and 128 MB of buffers.
    """
    transformers = _transformers()
    from taskalg.memory.tensors import usable_device

    place = usable_device("cpu" if device is None else device)
    recipe = _recipe(source, base, tasks, models, set)
    plan = recipe.plan(dtype=dtype)
    folder = _folder(plan)
    config = _config(transformers, folder)
    chosen = _class(transformers, config, model_class)
    try:
        model, found = chosen.from_pretrained(
            None,
            config=config,
            state_dict=recipe.state_dict(dtype=dtype),
            dtype=_dtype(plan, config),
            generation_config=_generation(transformers, chosen, folder),
            output_loading_info=True,
        )
    except RuntimeError as error:  # such as sizes that are not the config's
        raise MismatchError(
            f"transformers cannot make a {chosen.__name__} of the result", note=_reason(error)
        ) from error
    _check_complete(chosen, found)
    model.config.name_or_path = ""  # it is no model that could be loaded by a name
    return model.to(place)


def _transformers() -> Any:
    try:
        import transformers
    except ImportError:
        raise UsageError(
            "from_pretrained needs transformers, which is not installed", help=f"run: {_INSTALL}"
        ) from None
    return transformers


def _recipe(
    source: AnyPath | Recipe,
    base: Weights | None,
    tasks: Mapping[str, Weights | None] | None,
    models: Mapping[str, Weights | None] | None,
    scalars: Mapping[str, Number] | None,
) -> Recipe:
    if not isinstance(source, Recipe):
        return compile(source, base=base, tasks=tasks, models=models, set=scalars)
    if any(given is not None for given in (base, tasks, models, scalars)):
        raise UsageError(
            "the names of a recipe are bound already", help="write recipe.bind(name=...)"
        )
    return source


def _folder(plan: Plan) -> Path:
    """Return where the donor says what model it is.

    Raises:
        KindError: the result is no model.
        UsageError: nothing says what model it is.
    """
    if plan.kind is Kind.TASK_VECTOR:
        raise KindError(
            "a task vector is not a model",
            note="the coefficients add up to 0",
            help="add it to what it was taken from: base + (...)",
        )
    donor = opened(plan.operands[plan.donor])
    if donor.folder is None or not files.is_file(donor.folder / _CONFIG):
        raise UsageError(
            f"{quoted(donor.path)} has no {_CONFIG}, so nothing says what model it is",
            help="make the model yourself, and fill it: recipe.load_into(model)",
        )
    return donor.folder


def _config(transformers: Any, folder: Path) -> Any:
    try:
        return transformers.AutoConfig.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"transformers cannot read {quoted(str(folder / _CONFIG))}",
            note=_reason(error),
            help="make the model yourself, and fill it: recipe.load_into(model)",
        ) from error


def _class(transformers: Any, config: Any, wanted: Any) -> Any:
    """Return the class to make, which for an automatic one depends on the config.

    Raises:
        UsageError: it is none, or one for other configs.
    """
    if wanted is None:
        named = [getattr(transformers, str(name), None) for name in config.architectures or ()]
        wanted = next(filter(_is_model_class, named), transformers.AutoModel)
    if not _is_model_class(wanted):
        raise UsageError(
            f"model_class is a class of transformers, found {quoted(str(wanted))}",
            help="model_class=transformers.AutoModelForCausalLM",
        )
    mapping = getattr(wanted, "_model_mapping", None)
    its_config = getattr(wanted, "config_class", None) or type(config)
    found = wanted if mapping is None else mapping.get(type(config), None)
    if found is None or not isinstance(config, its_config):
        kind = type(config).__name__
        raise UsageError(f"{wanted.__name__} has no model for a {kind}")
    return found[0] if isinstance(found, tuple) else found


def _is_model_class(found: Any) -> bool:
    return isinstance(found, type) and hasattr(found, "from_pretrained")


def _dtype(plan: Plan, config: Any) -> Any:
    """Return the dtype of the model: of all floating tensors, else what the config says.

    Raises:
        UsageError: torch makes no models of it.
    """
    outputs = {plan.combinations[step.combination].output for step in plan.steps}
    floating = [dtype for dtype in FLOATING if dtype in outputs]
    if len(floating) == 1 and floating[0].itemsize == 1:
        raise UsageError(f"torch makes no models of {floating[0]}", help='dtype="bf16"')
    return floating[0].torch if len(floating) == 1 else config.dtype or "auto"


def _generation(transformers: Any, chosen: Any, folder: Path) -> Any:
    """Return how the model generates text; None when it does not, or nothing is said of it."""
    if not chosen.can_generate():
        return None
    if (folder / "generation_config.json").is_file():
        return transformers.GenerationConfig.from_pretrained(folder)
    return transformers.GenerationConfig.from_pretrained(
        folder, config_file_name=_CONFIG, _from_model_config=True
    )


def _reason(error: Exception) -> str:
    """Return the first line of another library's message."""
    return str(error).strip().partition("\n")[0][:300]


def _check_complete(chosen: Any, found: Mapping[str, Any]) -> None:
    """Refuse a model of which transformers made up some tensors.

    Raises:
        MismatchError: it did.
    """
    missing = sorted(found["missing_keys"]) + sorted(str(key) for key in found["mismatched_keys"])
    if missing:
        raise MismatchError(
            f"the result lacks tensors of {chosen.__name__}",
            note=f"they are {listed([quoted(name) for name in missing])}",
            help="choose another model_class",
        )
