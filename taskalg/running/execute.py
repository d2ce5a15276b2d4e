"""Plan, engine and output meet: stage the output, stream the blocks, publish, report."""

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from taskalg.algebra.kinds import Kind
from taskalg.checkpoints.base import Checkpoint
from taskalg.checkpoints.hub.fetch import fetched
from taskalg.engines.base import Engine
from taskalg.engines.gpu.device import unavailable
from taskalg.engines.registry import check_engine, get_engine
from taskalg.machine import peak_memory
from taskalg.output.destination import is_file_output
from taskalg.output.layout import SHARD_SIZE, OutputTensor, ShardLayout, lay_out
from taskalg.output.publish import stage
from taskalg.output.sidefiles import SideFile, list_of_parts, side_files
from taskalg.planning.digest import plan_digest
from taskalg.planning.donor import opened
from taskalg.planning.plan import Plan, Step
from taskalg.remarks import remarks, warnings
from taskalg.running.blocks import cut
from taskalg.running.provenance import (
    Record,
    generated_files,
    make_manifest,
    stored_outputs,
    unsure,
)
from taskalg.running.report import NOTHING, Cost, Report
from taskalg.running.sinks import FileSink
from taskalg.running.stream import Pass, Progress, Settings
from taskalg.units import bytes_text


def execute(
    plan: Plan,
    engine: Engine | str,
    out: Path,
    settings: Settings | None = None,
    *,
    record: Record | None = None,
    spent: Cost = NOTHING,
) -> Report:
    """Evaluate a plan and publish the result.

    Args:
        plan: what to do.
        engine: an engine, or the name of one; it is loaded while the output's space is reserved.
        out: a folder, or one file when it ends in `.safetensors`.
        settings: how to run.
        record: what the manifest says besides; None for an output without one.
        spent: on measuring before, which the report counts too.

    Raises:
        OutputError: the output cannot be written, or is in the way.
        CheckpointError: an input cannot be read or downloaded, or changed meanwhile.
        OverflowingError: a result overflowed where no input did, and that is an error.
        MismatchError: integer tensors differ, and `strict` is set.

    Memory: 128 MB of buffers at most, whatever the model, the threads and the terms.
    """
    settings = settings or Settings()
    if any(shard.remote for operand in plan.operands for shard in opened(operand).shards):
        rehearse(plan, out, settings)  # what is in the way is told before a long download
    record = None if is_file_output(out) else record  # beside a file nothing is published
    inputs = fetched_inputs(plan, settings)
    layouts = output_layouts(plan, out, settings.shard_size)
    sides = output_side_files(plan, inputs[plan.donor], out, layouts)
    warned = warnings(plan, out)
    key = plan_digest(plan, settings.fail_on_overflow)
    with stage(
        out, layouts, inputs=inputs, overwrite=settings.overwrite, side_files=sides, key=key
    ) as staged:
        with staged.reserving():
            loaded = get_engine(engine) if isinstance(engine, str) else engine
            run = Pass(plan, loaded, inputs, settings)
            if record is not None:
                manifest = make_manifest(plan, inputs, record, settings)
        start, skipped = time.perf_counter(), sum(staged.done)
        with run:
            run.compare()
            blocks = cut(plan, layouts, run.threads, staged.done)
            run.stream(blocks, FileSink(staged.files, staged.wrote), skipped=skipped)
        if record is not None:
            outputs = stored_outputs(layouts, staged.digests() if record.hashed else {}, record)
            for made in generated_files(replace(manifest, outputs=outputs), sides):
                staged.add(made)
        staged.publish()
        seconds = time.perf_counter() - start
    return Report(
        out=out,
        plan=plan,
        shards=len(layouts),
        bytes_read=spent.bytes_read + run.bytes_read,
        bytes_copied=run.bytes_copied,
        bytes_written=plan.bytes_written,
        seconds=spent.seconds + seconds,
        peak_memory=peak_memory(),
        tally=run.tally,
        notes=(*_told(plan), *run.notes(), *warned, *_resumed(skipped), *unsure(record)),
    )


def engine_for(plan: Plan, name: str) -> str:
    """Return the engine that is meant for a plan: `auto` is the GPU's for operands that lie there.

    Raises:
        UsageError: no engine has that name, or this machine has nothing it could run on.
    """
    places = {device for operand in plan.operands for device in opened(operand).devices}
    on_gpu = any(place.startswith("cuda") for place in places)
    if name == "auto" and on_gpu and unavailable() is None:
        return "gpu"
    return check_engine(name)


def rehearse(plan: Plan, out: Path, settings: Settings) -> None:
    """Refuse what `execute` would refuse before it writes anything. Creates nothing.

    Raises:
        OutputError: the output cannot be written, or is in the way.
    """
    inputs = [opened(operand) for operand in plan.operands]
    layouts = output_layouts(plan, out, settings.shard_size)
    sides = output_side_files(plan, inputs[plan.donor], out, layouts)
    stage(out, layouts, inputs=inputs, overwrite=settings.overwrite, side_files=sides).rehearse()


def output_layouts(plan: Plan, out: Path, shard_size: int = SHARD_SIZE) -> tuple[ShardLayout, ...]:
    """Return the files of weights that a plan writes to `out`."""
    tensors = [_output_tensor(plan, step) for step in plan.tensors]
    if is_file_output(out):
        shard_size = max(shard_size, plan.bytes_written)
    is_vector = plan.kind is Kind.TASK_VECTOR
    parts = opened(plan.operands[plan.donor]).parts
    return lay_out(tensors, task_vector=is_vector, shard_size=shard_size, parts=parts)


def output_side_files(
    plan: Plan, donor: Checkpoint, out: Path, layouts: Sequence[ShardLayout]
) -> tuple[SideFile, ...]:
    """Return what comes along: nothing for one file, and for a vector what names its parts."""
    if is_file_output(out):
        return ()
    if plan.kind is Kind.TASK_VECTOR:
        return list_of_parts(donor)
    return side_files(donor, [tensor for layout in layouts for tensor in layout.tensors])


def _told(plan: Plan) -> list[str]:
    """Return the sentences of a plan's remarks."""
    return [text for _, text in remarks(plan)]


def _resumed(skipped: int) -> tuple[str, ...]:
    if not skipped:
        return ()
    return (f"{bytes_text(skipped)} were there from an interrupted run, and not written again",)


def fetched_inputs(plan: Plan, settings: Settings) -> list[Checkpoint]:
    """Return a plan's checkpoints, what will be read of those on the Hub downloaded.

    Raises:
        CheckpointError: something cannot be had.
    """

    def report(done: int, total: int) -> None:
        if settings.progress is not None:
            settings.progress(Progress(done, total, "downloading"))

    wanted: list[set[int]] = [set() for _ in plan.operands]  # shards of each operand
    for step in plan.steps:
        operands = plan.combinations[step.combination].operands
        for operand, source in zip(operands, step.sources, strict=True):
            wanted[operand] |= source.shards
    for comparison in plan.comparisons:
        wanted[plan.donor] |= comparison.donor.shards
        wanted[comparison.operand] |= comparison.other.shards
    for copies in plan.aligned.copies:
        wanted[copies.operand] |= copies.one.shards | copies.other.shards
    inputs = [opened(operand) for operand in plan.operands]
    return [fetched(*pair, report) for pair in zip(inputs, wanted, strict=True)]


def _output_tensor(plan: Plan, step: Step) -> OutputTensor:
    dtype = plan.combinations[step.combination].output
    return OutputTensor(step.name, dtype, step.shape, math.prod(step.shape) * dtype.itemsize)
