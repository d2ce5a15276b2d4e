"""A plan to its manifest and model card: what was read, combined and decided, fit to be published.

Checkpoints without a name get one, and every sum is printed in names, so that no path is in it.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from taskalg import files
from taskalg.algebra.canonical import sort_key
from taskalg.algebra.kinds import Kind
from taskalg.algebra.measured import ordered
from taskalg.algebra.weighted_sum import WeightedSum
from taskalg.checkpoints.base import Checkpoint
from taskalg.coefficients import coefficients_json
from taskalg.compiler import default_name
from taskalg.errors import Source, VerificationError, quoted
from taskalg.expression import Written
from taskalg.output.card import card, stated_license
from taskalg.output.digests import header_sha256, sha256_of
from taskalg.output.layout import ShardLayout
from taskalg.output.manifest import MANIFEST_NAME, Decisions, Input, Manifest, StoredFile
from taskalg.output.public import is_origin, public_path, public_text
from taskalg.output.sidefiles import SideFile
from taskalg.planning.donor import opened
from taskalg.planning.naming import renamed
from taskalg.planning.plan import Plan
from taskalg.planning.resolve import Operand, Resolved
from taskalg.running.stream import Settings
from taskalg.version import __version__

_ADAPTER_CONFIG = "adapter_config.json"  # decides an adapter's numbers as its tensors do
_LONGEST_TEXT = 1_000_000  # characters of a recipe that a manifest repeats


@dataclass(frozen=True)
class Record:
    """What a manifest says that neither a plan nor the settings know."""

    written: Written = field(default_factory=Written)
    hashed: bool = False  # whether whole files are hashed
    repeated: Manifest | None = None  # what is repeated: its words and its inputs' are taken


def generated_files(manifest: Manifest, side_files: Sequence[SideFile]) -> list[SideFile]:
    """Return what is published about an output: the manifest, and for a model its card."""
    found = [SideFile(MANIFEST_NAME, manifest.to_bytes())]
    is_vector = manifest.kind == str(Kind.TASK_VECTOR)
    return found if is_vector else [*found, card(manifest, side_files)]


def stored_outputs(
    layouts: Sequence[ShardLayout], sha256: Mapping[str, str], record: Record
) -> tuple[StoredFile, ...]:
    """Describe the files of an output; digests of whole files are given by name, if at all.

    Raises:
        VerificationError: they are to be those of a manifest, and are others.
    """
    found = tuple(
        StoredFile(
            layout.name,
            layout.size,
            hashlib.sha256(layout.header[8:]).hexdigest(),
            sha256.get(layout.name),
        )
        for layout in layouts
    )
    if record.repeated is not None:
        _check_repeated(record.repeated, found)
    return found


def _check_repeated(repeated: Manifest, outputs: Sequence[StoredFile]) -> None:
    """Hold files against those that are to be made again, as far as a manifest knows them."""
    expected = {one.name: one for one in repeated.outputs}
    for one in outputs:
        known = expected.pop(one.name, None)
        if known is None or replace(one, sha256=known.sha256) != known:
            raise VerificationError(
                f"{quoted(one.name)} would not be what {MANIFEST_NAME} says",
                note="its size or header is another, so the manifest was changed",
            )
        if None not in (one.sha256, known.sha256) and one.sha256 != known.sha256:
            raise VerificationError(
                f"{quoted(one.name)} would not be what {MANIFEST_NAME} says",
                note="its SHA-256 is another: an input has changed, or the manifest",
            )
    if expected:
        raise VerificationError(f"{MANIFEST_NAME} lists {quoted(min(expected))}, which is not made")


def unsure(record: Record | None) -> tuple[str, ...]:
    """Say what of a result that was made again could not be compared."""
    if record is None or record.repeated is None or record.hashed:
        return ()
    return (f"{MANIFEST_NAME} has no SHA-256: sizes and headers are the same, that is all known",)


def make_manifest(
    plan: Plan, inputs: Sequence[Checkpoint], record: Record, settings: Settings
) -> Manifest:
    """Say what a plan does, before it is done; the files of the output are missing yet.

    Args:
        plan: the plan.
        inputs: its operands' checkpoints, whose files are on this machine by now.
        record: what else to say.
        settings: how it is run.

    Raises:
        CheckpointError: an input cannot be read.
    """
    names = public_names(plan.operands)
    total, _ = renamed(_public_sum(plan.total, names))
    in_files, measured = renamed(replace(_public_sum(plan.total, names), bases={}))
    known = {o.path: _public_path(o) for o in plan.operands if o.path is not None}
    choices, written = plan.choices, record.written
    made = Manifest(
        version=__version__,
        kind=str(plan.kind),
        recipe=_public(written.recipe, known),
        expression=_public(written.expression, known),
        set=dict(sorted(written.scalars.items())),
        simplified=str(total),
        files=str(in_files),
        measured=dict(sorted((measured[n], float(v)) for n, v in plan.measured.items())),
        coefficients=coefficients_json(plan, [names[operand] for operand in plan.operands]),
        cancelled=tuple(sorted({*names.values()} - {names[o] for o in taking_part(plan)})),
        inputs=() if record.repeated else _make_inputs(plan, inputs, hashed=record.hashed),
        decisions=Decisions(
            donor=names[plan.operands[plan.donor]],
            dtype=None if choices.dtype is None else choices.dtype.name,
            shard_size=settings.shard_size,
            on_overflow="error" if settings.fail_on_overflow else "warn",
            allow_partial=choices.allow_partial,
            only_shared=choices.only_shared,
            rows=choices.rows,
        ),
        tensors=len(plan.tensors),
        outputs=(),
    )
    return made if record.repeated is None else _in_words_of(record.repeated, made)


def taking_part(plan: Plan) -> list[Operand]:
    """Return the operands on which the output depends, in the order of the public names."""
    names = public_names(plan.operands)
    found = {usage.operand: None for usage in plan.usage if usage.tensors or usage.coefficient}
    found |= {plan.operands[plan.donor]: None}
    measured = [plan.total.measured[name] for name in plan.measured]
    found |= {o: None for one in measured for total in one.arguments for o in total.terms}
    for adapter in list(found):
        base = plan.total.against.get(adapter)
        found |= dict.fromkeys(() if base is None else base.terms)
    return sorted(found, key=lambda operand: sort_key(names[operand], None))


def _make_inputs(plan: Plan, inputs: Sequence[Checkpoint], *, hashed: bool) -> tuple[Input, ...]:
    """Describe the checkpoints that take part."""
    held = dict(zip(plan.operands, inputs, strict=True))
    names = public_names(plan.operands)
    total, _ = renamed(replace(_public_sum(plan.total, names), bases={}))
    against = {operand.name: base for operand, base in total.against.items()}
    found = []
    for operand in taking_part(plan):
        checkpoint, name = held[operand], names[operand]
        base = against.get(name)
        found.append(
            Input(
                name=name,
                sort=_sort(operand, name),
                path=_public_path(operand),
                origin=_origin(checkpoint),
                strip_prefix=checkpoint.stripped,
                against=None if base is None else _sum_text(base),
                license=stated_license(checkpoint.folder),
                files=stored_inputs(checkpoint, hashed=hashed),
            )
        )
    return tuple(found)


def public_names(operands: Sequence[Operand]) -> dict[Operand, str]:
    """Return a name for each operand: its own, else one that its path suggests."""
    names = {operand: operand.name for operand in operands if operand.name is not None}
    for operand in operands:
        if operand not in names:
            suggested = name = default_name(_public_path(operand))
            taken, number = {*names.values()}, 2
            while name in taken:
                name, number = f"{suggested}_{number}", number + 1
            names[operand] = name
    return names


def _in_words_of(repeated: Manifest, made: Manifest) -> Manifest:
    """Keep what was typed once: a repetition knows its checkpoints by other paths."""
    return replace(
        made,
        recipe=repeated.recipe,
        expression=repeated.expression,
        set=repeated.set,
        simplified=repeated.simplified,
        cancelled=repeated.cancelled,
        inputs=repeated.inputs,
    )


def _public_sum(total: Resolved, names: Mapping[Operand, str]) -> Resolved:
    """Give every checkpoint of a sum its public name, and put them in the order of those."""
    public = {o: replace(o, name=name, path=_public_path(o)) for o, name in names.items()}
    found = total.over(public.__getitem__)
    return replace(found, terms=ordered(WeightedSum(dict(found.terms))).terms)


def _sum_text(total: WeightedSum[Operand]) -> str:
    return str(ordered(total))


def _sort(operand: Operand, name: str) -> str:
    checkpoint = opened(operand)
    if checkpoint.is_sparse:
        return "adapter"
    if checkpoint.is_task_vector:
        return "task vector"
    if operand.is_task:
        return "task"
    return "base" if name == "base" else "model"


def _origin(checkpoint: Checkpoint) -> str | None:
    """Return what to open on the Hub: the model, and the folder or file in it that was opened."""
    if checkpoint.origin is None:
        return None
    opened_path = checkpoint.folder or checkpoint.shards[0].path
    inside = opened_path.as_posix().partition(f"/{checkpoint.origin.partition('@')[2]}/")[2]
    origin = "/".join(filter(None, (checkpoint.origin, inside)))
    return origin if is_origin(origin) else None


def _public_path(operand: Operand) -> str:
    if not operand.path:
        return operand.name or "memory"
    origin = None if operand.checkpoint is None else operand.checkpoint.origin
    return public_path(operand.path, origin)


def _public(source: Source | None, known: Mapping[str, str]) -> str | None:
    if source is None or len(source.text) > _LONGEST_TEXT:
        return None
    return public_text(source, known)


def stored_inputs(checkpoint: Checkpoint, *, hashed: bool) -> tuple[StoredFile, ...]:
    """Describe an input's files; digests of whole files where they are wanted, or are known.

    Raises:
        CheckpointError: one cannot be read.
    """
    paths = {_relative(s.path, checkpoint.folder): s.path for s in checkpoint.shards}
    sizes = {n: s.fingerprint.size for n, s in zip(paths, checkpoint.shards, strict=True)}
    headers = {n: s.header_hash for n, s in zip(paths, checkpoint.shards, strict=True)}
    known = {n: s.sha256 for n, s in zip(paths, checkpoint.shards, strict=True)}
    folder = checkpoint.folder
    if checkpoint.is_sparse and folder is not None and _ADAPTER_CONFIG in files.list_folder(folder):
        paths[_ADAPTER_CONFIG] = folder / _ADAPTER_CONFIG
        sizes[_ADAPTER_CONFIG] = files.fingerprint(folder / _ADAPTER_CONFIG).size
    if hashed:
        elsewhere = {shard.path for shard in checkpoint.shards if shard.remote is not None}
        wanted = {n: p for n, p in paths.items() if not known.get(n) and p not in elsewhere}
        known |= sha256_of(wanted)
    return tuple(
        StoredFile(n, sizes[n], headers.get(n) or header_sha256(path), known.get(n))
        for n, path in paths.items()
    )


def _relative(path: Path, folder: Path | None) -> str:
    inside = folder is not None and path.is_relative_to(folder)
    return path.relative_to(folder).as_posix() if inside and folder is not None else path.name
