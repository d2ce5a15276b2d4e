"""A plan for a task vector to a published LoRA adapter.

Where every term is an adapter, their factors are joined: `[c1*b1, c2*b2] @ [a1; a2]` is the sum, at
the sum of their ranks. Where one is not, or a rank is asked for, each tensor becomes the best
factors of that rank, and what they leave over is reported. One tensor at a time is in memory, and
the factors found so far, which are the output.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from taskalg import files
from taskalg.adapters.config import config_file
from taskalg.adapters.maker import Form, Maker, is_factored
from taskalg.adapters.modules import Module, module_of
from taskalg.adapters.report import AdapterReport, total_norms
from taskalg.algebra.kinds import Kind
from taskalg.checkpoints.adapter_config import CONFIG_NAME
from taskalg.checkpoints.base import Checkpoint, Part
from taskalg.checkpoints.index import read_json
from taskalg.engines.registry import get_engine
from taskalg.errors import KindError, UsageError, quoted
from taskalg.machine import peak_memory
from taskalg.measuring.numbers import measured
from taskalg.output.card import adapter_card
from taskalg.output.destination import is_file_output
from taskalg.output.layout import lay_out
from taskalg.output.public import hub_id, is_origin, public_path
from taskalg.output.publish import stage
from taskalg.planning.donor import opened
from taskalg.planning.plan import Plan
from taskalg.running.execute import fetched_inputs
from taskalg.running.provenance import Record, make_manifest
from taskalg.running.stream import Pass, Progress, Settings

_NOT_WORDS = ("wpe", "position_embeddings", "token_type_embeddings", "embed_positions")
_PART = Part("", "adapter_model", may_shard=False)


def check_form(plan: Plan, form: Form, out: Path) -> None:
    """Refuse what can be no adapter, before anything is read.

    Raises:
        KindError: the result is a model.
        UsageError: the output is a file, or a rank is needed.
    """
    if plan.kind is not Kind.TASK_VECTOR:
        raise KindError(
            "an adapter is a task vector, and this is a model",
            note="a model's weights are not of low rank; its difference to another may be",
            help="subtract what it was made from: (...) - base",
        )
    if is_file_output(out):
        raise UsageError("an adapter is a folder", note=f"found {quoted(str(out))}")
    dense = next((s.name for s in plan.steps if s.sources and not is_factored(s)), None)
    if form.rank is None and dense is not None:
        raise UsageError(
            "this task vector has no exact factors, so the adapter needs a rank",
            note=f"{quoted(dense)} is not a sum of products",
            help="add --rank 32",
        )


def export(
    plan: Plan, engine: str, out: Path, form: Form, settings: Settings, record: Record
) -> AdapterReport:
    """Make an adapter of a plan's result and publish it.

    Raises:
        TaskalgError: with the reason; nothing is published then.

    Memory: the adapter, and about 20 bytes for each element of the largest tensor.
    """
    check_form(plan, form, out)
    start = time.perf_counter()
    plan, spent = measured(plan, settings)
    inputs = fetched_inputs(plan, settings)
    model = _model_config(inputs)
    loaded = get_engine(engine)
    with Pass(plan, loaded, inputs, replace(settings, progress=None)) as run:
        run.compare()
        maker = Maker(run, loaded, form)
        _take_all(maker, plan, model.get("model_type"), settings.progress)
    if not maker.factors:
        raise KindError("nothing is left for an adapter: no weight of a module changes")
    base = _base_of(plan)
    config = config_file(maker.ranks, base, _architectures(model))
    manifest = make_manifest(plan, inputs, record, settings)
    known = hub_id(base) if base is not None and is_origin(base) else None
    rest = total_norms((*maker.residuals, *maker.left_out)).residual
    card = adapter_card(manifest, known, rest)
    tensors = maker.stored()
    layouts = lay_out([tensor for tensor, _ in tensors.values()], parts=(_PART,))
    with stage(
        out, layouts, inputs=inputs, overwrite=settings.overwrite, side_files=(config, card)
    ) as staged:
        layout = layouts[0]
        with staged.files.using(0) as output:
            for tensor, offset in zip(layout.tensors, layout.offsets, strict=True):
                files.write_at(output, tensors[tensor.name][1], offset)
        staged.publish()
    return AdapterReport(
        out=out,
        plan=plan,
        residuals=tuple(maker.residuals),
        left_out=tuple(maker.left_out),
        notes=tuple(_notes(maker.ranks, form, model)),
        bytes_read=spent.bytes_read + run.bytes_read,
        bytes_written=sum(tensor.nbytes for tensor, _ in tensors.values()),
        seconds=time.perf_counter() - start,
        peak_memory=peak_memory(),
    )


def _take_all(
    maker: Maker, plan: Plan, model_type: object, progress: Callable[[Progress], None] | None
) -> None:
    """Have the factors of every tensor made, one after the other."""
    done, known = 0, model_type if isinstance(model_type, str) else None
    for step in plan.tensors:
        maker.take(step, module_of(step, known))
        done += step.nbytes
        if progress is not None:
            progress(Progress(done, plan.bytes_written, "factorizing"))


def _architectures(model: Mapping[str, Any]) -> list[str]:
    named = model.get("architectures")
    return [name for name in named if isinstance(name, str)] if isinstance(named, list) else []


def _notes(ranks: Mapping[Module, int], form: Form, model: Mapping[str, Any]) -> Iterator[str]:
    """Say where PEFT's result is not the one a merge gives, and what was asked for in vain."""
    text = model.get("text_config")
    parts = (model, text if isinstance(text, dict) else {})
    tied = all(part.get("tie_word_embeddings", True) is not False for part in parts)
    words = [m for m in ranks if m.is_embedding and not m.path.endswith(_NOT_WORDS)]
    if tied and words:
        yield (
            f"the head may be tied to {quoted(words[0].tensor)}: "
            "PEFT then changes it only in merge_and_unload()"
        )
    if form.rank is not None and max(ranks.values()) < form.rank:
        yield f"no module has more than rank {max(ranks.values())}: none can, or none needs it"


def _base_of(plan: Plan) -> str | None:
    """Return what may be said of the model that the vector is added to; adapters name theirs."""
    operand = next((o for o in plan.operands if o.name == "base"), plan.operands[plan.donor])
    checkpoint = opened(operand)
    if not checkpoint.is_sparse or checkpoint.folder is None:
        return public_path(operand.path or operand.called, checkpoint.origin)
    named = read_json(checkpoint.folder / CONFIG_NAME).get("base_model_name_or_path")
    if not isinstance(named, str) or not named:
        return None
    return named if is_origin(f"{named}@main") else public_path(named)


def _model_config(inputs: list[Checkpoint]) -> dict[str, Any]:
    """Return the config of the model that the vector belongs to, if one of the inputs has it."""
    for checkpoint in inputs:
        if checkpoint.folder is not None and files.exists(checkpoint.folder / "config.json"):
            return read_json(checkpoint.folder / "config.json")
    return {}
