"""A manifest to its recipe again, and the recipe to the same output.

A manifest is a stranger's text. Its sum may name the inputs it lists and nothing else, whose paths
come from the caller, or from the Hub by id and commit; and they must be what it says they were.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from taskalg import files
from taskalg.algebra.coefficient import Coefficient
from taskalg.algebra.operators import BUILTINS
from taskalg.algebra.simplify import simplify
from taskalg.algebra.weighted_sum import Reference, WeightedSum, references
from taskalg.checkpoints.base import Opening
from taskalg.compiler import checked_name
from taskalg.errors import (
    CheckpointError,
    Source,
    TaskalgError,
    UsageError,
    VerificationError,
    listed,
    quoted,
)
from taskalg.language.nodes import Recipe as Program
from taskalg.language.parser import parse_expression
from taskalg.language.recipe import link
from taskalg.measuring.numbers import measured
from taskalg.output.manifest import MANIFEST_NAME, Manifest, StoredFile, read_manifest
from taskalg.planning.donor import opened
from taskalg.planning.plan import Plan
from taskalg.recipe import AnyPath, Recipe
from taskalg.running.execute import execute
from taskalg.running.provenance import Record, stored_inputs
from taskalg.running.report import Cost, Report
from taskalg.running.stream import Progress, Settings

Sum = WeightedSum[Reference]


def rerun(
    out: AnyPath,
    new: AnyPath,
    *,
    base: AnyPath | None = None,
    tasks: Mapping[str, AnyPath] | None = None,
    models: Mapping[str, AnyPath] | None = None,
    overwrite: bool = False,
    allow_pickle: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> Report:
    """Make an output again from its manifest. The files are the same, byte by byte.

    Args:
        out: an output folder with its taskalg.json.
        new: the folder to write.
        base: where the input called `base` is now.
        tasks: where others are, by name.
        models: likewise; whether one was bound as a task or as a model does not matter.
        overwrite: whether an earlier output may be replaced.
        allow_pickle: whether inputs may be pickles.
        progress: called with a `Progress` about ten times a second; cancels by raising.

    Raises:
        VerificationError: an input is not what it was.
        TaskalgError: as `Recipe.save` does; nothing is published then.
    """
    manifest = read_manifest(files.at_home(out))
    paths = given_paths(base, tasks, models)
    plan, record = recall(manifest, paths, allow_pickle=allow_pickle)
    place = files.at_home(new)
    decisions = manifest.decisions
    settings = Settings(
        fail_on_overflow=decisions.on_overflow == "error",
        overwrite=overwrite,
        shard_size=decisions.shard_size,
        progress=progress,
    )
    plan, spent = measured_again(manifest, plan, settings, place)
    return execute(plan, "auto", place, settings, record=record, spent=spent)


def measured_again(
    manifest: Manifest, plan: Plan, settings: Settings, out: Path | None = None
) -> tuple[Plan, Cost]:
    """Measure what a plan needs, as `measured` does, and hold the numbers against a manifest's.

    Raises:
        VerificationError: a number is another.
        TaskalgError: as `measured` says.
    """
    found, spent = measured(plan, settings, out)
    numbers = {name: float(value) for name, value in found.measured.items()}
    known = dict(manifest.measured)
    wrong = next((n for n in {**known, **numbers} if known.get(n) != numbers.get(n)), None)
    if wrong is not None:
        raise VerificationError(
            f"{quoted(wrong)} is not what {MANIFEST_NAME} says",
            note=f"it is {numbers.get(wrong)}, and was {known.get(wrong)}: "
            "an input has changed, or the manifest",
        )
    return found, spent


def given_paths(
    base: AnyPath | None,
    tasks: Mapping[str, AnyPath] | None,
    models: Mapping[str, AnyPath] | None,
) -> dict[str, str]:
    """Return the paths that the caller gives, by name."""
    found = {} if base is None else {"base": os.fspath(base)}
    for name, path in [*(tasks or {}).items(), *(models or {}).items()]:
        if checked_name(name) in found:
            raise UsageError(f"{quoted(name)} is given twice", help="give each name once")
        found[checked_name(name)] = os.fspath(path)
    return found


def missing(manifest: Manifest, paths: Mapping[str, str]) -> list[str]:
    """Return the inputs that neither the caller nor the Hub gives."""
    return [i.name for i in manifest.inputs if i.name not in paths and i.origin is None]


def recall(
    manifest: Manifest,
    paths: Mapping[str, str],
    *,
    allow_pickle: bool = False,
    hashed: bool = True,
) -> tuple[Plan, Record]:
    """Plan what a manifest says, after a look at whether its inputs are what they were.

    Args:
        manifest: what to repeat.
        paths: where the inputs are now, by name; those from the Hub may be left out.
        allow_pickle: whether inputs may be pickles.
        hashed: whether inputs of which it has the SHA-256 are read to compare that.

    Raises:
        UsageError: an input is not at hand, or one is given that it does not name.
        VerificationError: an input is another one.
        CheckpointError: one cannot be opened, or the manifest makes no sense.
    """
    _check_given(manifest, paths)
    opening = Opening(allow_pickle=allow_pickle, in_memory=allow_pickle)  # as convert opens them
    recipe = _read(manifest, paths, opening)
    _check_inputs(manifest, recipe, hashed=hashed)
    decisions = manifest.decisions
    plan = recipe.plan(
        donor=decisions.donor,
        dtype=decisions.dtype,
        allow_partial=decisions.allow_partial,
        only_shared=decisions.only_shared,
        rows=decisions.rows,
    )
    return plan, Record(hashed=manifest.is_hashed, repeated=manifest)


def where_is(names: Sequence[str]) -> str:
    """Return the words for what a manifest does not say of inputs."""
    return f"where {listed([quoted(name) for name in names])} {'is' if len(names) == 1 else 'are'}"


def call_for(names: Sequence[str]) -> str:
    """Return what to type to give these inputs."""
    return " ".join("--base PATH" if n == "base" else f"--model {n}=PATH" for n in names)


def _check_given(manifest: Manifest, paths: Mapping[str, str]) -> None:
    names = [one.name for one in manifest.inputs]
    unknown = sorted(set(paths) - set(names))
    if unknown:
        raise UsageError(
            f"{quoted(unknown[0])} is no input of this output",
            note=f"its inputs are {listed([quoted(name) for name in names])}",
        )
    absent = missing(manifest, paths)
    if absent:
        raise UsageError(
            f"{MANIFEST_NAME} does not say {where_is(absent)}",
            note="a manifest names local checkpoints without their paths",
            help=f"add {call_for(absent)}",
        )


def _read(manifest: Manifest, paths: Mapping[str, str], opening: Opening) -> Recipe:
    """Read the sum of a manifest in the names of its inputs, and in those only."""
    try:
        return Recipe(_whole_sum(manifest, paths), opening=opening)
    except TaskalgError as error:
        raise CheckpointError(
            f"{MANIFEST_NAME} is damaged or hostile: it is no sum of the inputs it names",
            note=error.message,
        ) from None


def _whole_sum(manifest: Manifest, paths: Mapping[str, str]) -> Sum:
    """Read the sum of a manifest in the names of its inputs; all are in it, if only as zero."""
    mentions: dict[str, Reference] = {}
    for one in manifest.inputs:
        path = paths.get(one.name, f"hf://{one.origin}")
        mentions[checked_name(one.name)] = Reference(
            path, "checkpoint", one.name, strip_prefix=one.strip_prefix
        )
    plain = {name: _term(reference) for name, reference in mentions.items()}
    for one in manifest.inputs:
        if one.against is not None:
            base = _sum(one.against, plain)
            mentions[one.name] = replace(mentions[one.name], sort="task", base=base)
    terms = {name: _term(reference) for name, reference in mentions.items()}
    zeros = [term.scaled(Coefficient()) for term in terms.values()]
    return WeightedSum.adding([_sum(manifest.files, terms), *zeros])


def _term(reference: Reference) -> Sum:
    return WeightedSum({reference: Coefficient(1)})


def _sum(text: str, given: Mapping[str, Sum]) -> Sum:
    source = Source(MANIFEST_NAME, text)
    node = parse_expression(source)
    program = link(Program((), node, source), builtins=BUILTINS, given=given)
    value, _ = simplify(program, given)
    known = set(references(given.values()))
    if not isinstance(value, WeightedSum) or not known.issuperset(references([value])):
        raise UsageError("a sum of its inputs is more than that, or less")
    return value


def _check_inputs(manifest: Manifest, recipe: Recipe, *, hashed: bool) -> None:
    """Hold the inputs against what the manifest says of them.

    Raises:
        VerificationError: one is another.
    """
    found = {operand.name: opened(operand) for operand, _ in recipe.resolved.terms}
    for one in manifest.inputs:
        wanted = hashed and any(file.sha256 for file in one.files)
        checkpoint = found.get(one.name)
        stored = () if checkpoint is None else stored_inputs(checkpoint, hashed=wanted)
        reason = _difference(one.files, stored)
        if reason is not None:
            raise VerificationError(
                f"{quoted(one.name)} is not the checkpoint that this output was made from",
                note=reason,
                help=f"give the one that was {quoted(one.path)}: {call_for([one.name])}",
            )


def _difference(expected: tuple[StoredFile, ...], found: tuple[StoredFile, ...]) -> str | None:
    """Say how files differ from those of the manifest; names do not count, they may be copies."""
    if expected and len(expected) != len(found):  # none: it was in memory
        return f"it has {len(found):,} file{'' if len(found) == 1 else 's'}, not {len(expected):,}"
    for was, now in zip(expected, found, strict=False):
        name = quoted(now.name)
        if was.size != now.size:
            return f"{name} has {now.size:,} bytes, and had {was.size:,}"
        if was.header_sha256 != now.header_sha256:
            return f"the header of {name} is another: other tensors, dtypes or shapes"
        if None not in (was.sha256, now.sha256) and was.sha256 != now.sha256:
            return f"the tensors in {name} are others: its SHA-256 is another"
    return None
