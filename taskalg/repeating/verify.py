"""An output held against its manifest, and against the inputs it was made from.

Three depths. Sizes, headers and names can always be checked. Contents can be when the manifest has
digests of whole files. With the inputs at hand the sum is evaluated again, by the ordinary pass
with another sink, and every byte of every file of weights is compared.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from taskalg import files
from taskalg.checkpoints.registry import open_checkpoint
from taskalg.checkpoints.stems import is_weights
from taskalg.engines.registry import get_engine
from taskalg.errors import TaskalgError, UsageError, listed, quoted
from taskalg.output.digests import header_sha256, sha256_of
from taskalg.output.layout import ShardLayout, indexes
from taskalg.output.manifest import MANIFEST_NAME, Manifest, read_manifest
from taskalg.planning.plan import Plan
from taskalg.recipe import AnyPath
from taskalg.repeating.compare import ComparingSink, Difference
from taskalg.repeating.rerun import call_for, given_paths, measured_again, missing, recall, where_is
from taskalg.running.blocks import Block, cut
from taskalg.running.execute import fetched_inputs, output_layouts
from taskalg.running.stream import Pass, Progress, Settings
from taskalg.units import bytes_text


@dataclass(frozen=True)
class Verification:
    """What a verification found. `str` is one line."""

    out: Path
    tensors: int  # of the output
    nbytes: int  # of its files of weights [bytes]
    method: str  # "headers", "sha256" or "inputs": what contents were held against
    compared: int  # part of nbytes that was compared [bytes]
    problems: tuple[str, ...]  # of whole files, a sentence each
    differences: tuple[Difference, ...]  # tensors, when they were evaluated again

    @property
    def ok(self) -> bool:
        """Whether everything that was looked at is as it should be."""
        return not self.problems and not self.differences

    def __str__(self) -> str:
        tensors = f"{self.tensors:,} tensor{'' if self.tensors == 1 else 's'}"
        if self.ok:
            against = {
                "headers": "; contents were not compared",
                "sha256": ", by SHA-256",
                "inputs": "" if self.compared == self.nbytes else ", by sample",
            }
            size = bytes_text(self.compared)
            if self.compared < self.nbytes:
                size += f" of {bytes_text(self.nbytes)}"
            return f"0 differences in {tensors}, {size}{against[self.method]}"
        parts = list(self.problems)
        if self.differences:
            shown = [
                f"{quoted(d.name)} in {d.elements:,} element{'' if d.elements == 1 else 's'}"
                for d in self.differences
            ]
            verb = "differs" if len(shown) == 1 else "differ"
            parts.append(f"{len(shown):,} of {tensors} {verb}: {listed(shown)}")
        return "; ".join(parts)

    __repr__ = __str__


def verify(
    out: AnyPath,
    *,
    base: AnyPath | None = None,
    tasks: Mapping[str, AnyPath] | None = None,
    models: Mapping[str, AnyPath] | None = None,
    sample: float | Fraction | None = None,
    allow_pickle: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> Verification:
    """Compare an output with its manifest, and with the inputs as far as they are at hand.

    Without any input, contents are compared with the digests that `--hash` recorded. With inputs,
    or without digests, the sum is evaluated again. Local inputs have to be given, those on the Hub
    open by themselves.

    Args:
        out: an output folder with its taskalg.json.
        base: where the input called `base` is now.
        tasks: where others are, by name.
        models: likewise; whether one was bound as a task or as a model does not matter.
        sample: the share of blocks that are evaluated, from 0 to 1; None for all. The choice is
            spread evenly and always the same. With 0 only sizes and headers are compared.
        allow_pickle: whether inputs may be pickles.
        progress: called with a `Progress` about ten times a second; cancels by raising.

    Raises:
        VerificationError: an input is not the one that was used.
        UsageError: contents can only be compared with inputs that are not at hand.
        CheckpointError: the manifest is damaged, or a file cannot be read.
    """
    folder = files.at_home(out)
    if sample is not None and not 0 <= sample <= 1:
        raise UsageError("a sample is a share from 0 to 1", note=f"found {sample}")
    manifest = read_manifest(folder)
    paths = given_paths(base, tasks, models)
    problems = _check_files(folder, manifest)
    if problems or sample == 0:
        return _found(folder, manifest, "headers", tuple(problems))
    if sample is None and not paths and manifest.is_hashed:
        return _by_digest(folder, manifest)
    absent = missing(manifest, paths)
    if absent and not paths:
        raise _not_at_hand(folder, manifest, absent)
    plan, _ = recall(manifest, paths, allow_pickle=allow_pickle, hashed=sample is None)
    share = Fraction(1 if sample is None else sample)
    shown = None if progress is None else lambda found: progress(_verifying(found))
    settings = Settings(fail_on_overflow=False, progress=shown)
    return _by_inputs(folder, manifest, plan, share, settings)


def _verifying(found: Progress) -> Progress:
    return replace(found, doing="verifying") if found.doing == "merging" else found


def _found(
    folder: Path,
    manifest: Manifest,
    method: str,
    problems: tuple[str, ...],
    compared: int = 0,
    differences: tuple[Difference, ...] = (),
) -> Verification:
    return Verification(
        folder, manifest.tensors, manifest.nbytes, method, compared, problems, differences
    )


def _check_files(folder: Path, manifest: Manifest) -> list[str]:
    """Compare what can be compared quickly, and say what is wrong."""
    problems = []
    for file in manifest.outputs:
        path = folder / file.name
        if not files.is_file(path):
            problems.append(f"{quoted(file.name)} is missing")
        elif files.fingerprint(path).size != file.size:
            size = files.fingerprint(path).size
            problems.append(f"{quoted(file.name)} has {size:,} bytes instead of {file.size:,}")
        elif header_sha256(path) != file.header_sha256:
            problems.append(f"the header of {quoted(file.name)} is another")
    problems += [f"{quoted(name)} does not belong to it" for name in _strays(folder, manifest)]
    if not problems:
        try:
            open_checkpoint(folder)
        except TaskalgError as error:  # the index, mostly
            problems.append(error.message)
    return problems


def _strays(folder: Path, manifest: Manifest) -> Iterator[str]:
    """Yield files of weights that the manifest does not know, and a loader may mix up."""
    known = {file.name for file in manifest.outputs}
    for inside in dict.fromkeys(name.rpartition("/")[0] for name in sorted(known)):
        for name in files.list_folder(folder / inside):
            whole = f"{inside}/{name}" if inside else name
            if is_weights(name) and whole not in known and not name.endswith(".index.json"):
                yield whole


def _by_digest(folder: Path, manifest: Manifest) -> Verification:
    found = sha256_of({file.name: folder / file.name for file in manifest.outputs})
    problems = [
        f"{quoted(file.name)} is damaged: its SHA-256 is another"
        for file in manifest.outputs
        if file.sha256 != found[file.name]
    ]
    return _found(folder, manifest, "sha256", tuple(problems), manifest.nbytes)


def _not_at_hand(folder: Path, manifest: Manifest, absent: list[str]) -> UsageError:
    unknown = f"{MANIFEST_NAME} does not say {where_is(absent)}"
    rest = "" if manifest.is_hashed else ", and has no SHA-256 of the output"
    other = "leave --sample out" if manifest.is_hashed else "--sample 0% if that is enough"
    return UsageError(
        f"sizes and headers of {quoted(str(folder))} are right; its contents were not compared",
        note=unknown + rest,
        help=f"add {call_for(absent)}, or {other}",
    )


def _by_inputs(
    folder: Path,
    manifest: Manifest,
    plan: Plan,
    share: Fraction,
    settings: Settings,
) -> Verification:
    layouts = output_layouts(plan, folder, manifest.decisions.shard_size)
    problems = _check_layouts(folder, manifest, layouts)
    if problems:
        return _found(folder, manifest, "inputs", tuple(problems))
    plan, _ = measured_again(manifest, plan, settings)
    sink = ComparingSink(folder, layouts)
    try:
        with Pass(plan, get_engine("auto"), fetched_inputs(plan, settings), settings) as run:
            run.compare()
            run.stream(sampled(plan, layouts, run.threads, share, manifest), sink)
    finally:
        sink.close()
    compared = sink.compared + sum(len(layout.header) for layout in layouts)
    return _found(folder, manifest, "inputs", (), compared, sink.differences)


def _check_layouts(folder: Path, manifest: Manifest, layouts: tuple[ShardLayout, ...]) -> list[str]:
    """Compare the files of an output with what the plan would write, headers byte by byte."""
    if [layout.name for layout in layouts] != [file.name for file in manifest.outputs]:
        return [f"{MANIFEST_NAME} lists other files than its inputs give"]
    problems = []
    for layout in layouts:
        fd = files.open_input(folder / layout.name)
        try:
            header = bytearray(len(layout.header))
            same = files.fingerprint(fd).size == layout.size
            if same:
                files.read_into(fd, [header], 0)
        finally:
            files.close(fd)
        if not same or header != layout.header:
            problems.append(f"the header of {quoted(layout.name)} is not what its inputs give")
    for name, content in indexes(layouts).items():
        if files.read_small(folder / name, len(content)) != content:
            problems.append(f"{quoted(name)} is not what its inputs give")
    return problems


def sampled(
    plan: Plan,
    layouts: tuple[ShardLayout, ...],
    threads: int,
    share: Fraction,
    manifest: Manifest,
) -> Iterator[Block]:
    """Yield a share of a plan's blocks, at least one, at even distances.

    Where the first of them lies is decided by the manifest, so it is the same every time.
    """
    count = sum(1 for _ in cut(plan, layouts, threads))
    wanted = max(1, math.ceil(share * count))
    digest = hashlib.sha256(manifest.to_bytes()).digest()
    start = int.from_bytes(digest[:8], "little") % max(1, count)
    for index, block in enumerate(cut(plan, layouts, threads)):
        position = index * wanted + start
        if (position + wanted) // count > position // count:
            yield block
