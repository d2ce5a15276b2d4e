"""taskalg.json: what an output was made from and how, enough to check it and to make it again.

It holds names, an expression in them, what tells each input from another, and what tells each file
of the output from a damaged one. Nothing in it depends on the machine or the time, so the same
merge writes the same bytes. When it is read back it is a stranger's text: every field has its type,
no file name leads out of the folder, and nothing it names is opened on its word alone.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from taskalg import files
from taskalg.checkpoints.index import read_json
from taskalg.dtypes import FLOATING
from taskalg.errors import CheckpointError, UsageError, quoted
from taskalg.output.moves import stays_inside
from taskalg.output.public import is_origin

MANIFEST_NAME = "taskalg.json"
SCHEMA = 1
SORTS = ("base", "model", "task", "task vector", "adapter")
_DTYPES = tuple(dtype.name for dtype in FLOATING)
_LARGEST = 2**63 - 1
LICENSE = re.compile(r"[a-z0-9][a-z0-9.-]*")  # as the Hub abbreviates them
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class StoredFile:
    """One file of weights, and what tells it from another of its name."""

    name: str  # its path inside the checkpoint's folder, parts joined by "/"
    size: int  # [bytes]
    header_sha256: str  # of the JSON that describes its tensors
    sha256: str | None  # of the whole file; None when nobody asked for it


@dataclass(frozen=True)
class Input:
    """One checkpoint that takes part."""

    name: str
    sort: str  # one of SORTS
    path: str  # what may be said of where it was: `org/name@commit`, or the last part of a path
    origin: str | None  # `org/name@commit` when it can be had from the Hub
    strip_prefix: str | None  # dropped from the names of its tensors
    against: str | None  # the expression of files that an adapter is taken against, if it needs one
    license: str | None  # as its own model card states it
    files: tuple[StoredFile, ...]


@dataclass(frozen=True)
class Decisions:
    """What the user decided, besides the expression, that decides bytes."""

    donor: str
    dtype: str | None
    shard_size: int  # [bytes]
    on_overflow: str
    allow_partial: bool
    only_shared: bool
    rows: str


@dataclass(frozen=True)
class Manifest:
    """What taskalg.json says."""

    version: str  # of the package
    kind: str
    recipe: str | None  # the text of a recipe file, as it was written but for local paths
    expression: str | None  # the text of an expression beside it or without one, likewise
    set: Mapping[str, str]  # scalars that were bound from outside
    simplified: str  # in the user's names
    files: str  # the same in the names of `inputs`, each the file itself and nothing subtracted
    coefficients: Any  # of those by name, exact, as "p/q"; a list of classes when they vary
    cancelled: tuple[str, ...]  # what the expression mentions and the result does not depend on
    inputs: tuple[Input, ...]
    decisions: Decisions
    tensors: int  # of the output
    outputs: tuple[StoredFile, ...]
    # The numbers of what `files` measures, to the bit.
    measured: Mapping[str, float] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Sizes of the output's files of weights, headers included [bytes]."""
        return sum(file.size for file in self.outputs)

    @property
    def is_hashed(self) -> bool:
        """Whether the output's files can be checked without the inputs."""
        return all(file.sha256 is not None for file in self.outputs)

    def to_bytes(self) -> bytes:
        """Return the file's content."""
        found = {"schema": SCHEMA, **asdict(self)}
        return (json.dumps(found, indent=2) + "\n").encode("ascii")


def read_manifest(out: Path) -> Manifest:
    """Read the manifest of an output.

    Raises:
        UsageError: the output is a single file, which has none.
        CheckpointError: there is none, or it is damaged or hostile.
    """
    path = out / MANIFEST_NAME
    if files.is_file(out):
        raise UsageError(
            f"{quoted(str(out))} is a file, and only an output folder has a manifest",
            help="merge into a folder, or merge again and compare the two files",
        )
    if not files.exists(path):
        raise CheckpointError(
            f"there is no {MANIFEST_NAME} in {quoted(str(out))}",
            note="taskalg merge writes it into a folder, but not into an adapter's",
            help="give the folder that merge wrote to",
        )
    found = _Object(read_json(path), str(path), "it")
    if found.count("schema") != SCHEMA:
        raise found.broken(f"its schema is not {SCHEMA}")
    return _manifest(found)


def _manifest(found: "_Object") -> Manifest:
    inputs = tuple(_input(one) for one in found.objects("inputs"))
    outputs = tuple(_file(one) for one in found.objects("outputs"))
    names = [one.name for one in inputs]
    stored = [one.name for one in outputs]
    if not inputs or len(set(names)) < len(names):
        raise found.broken("its inputs are none, or two have one name")
    if not outputs or len(set(stored)) < len(stored):
        raise found.broken("its outputs are none, or two have one name")
    decisions = _decisions(found.object("decisions"))
    if decisions.donor not in names:
        raise found.broken("its donor is none of its inputs")
    scalars = found.object("set")
    return Manifest(
        version=found.text("version"),
        kind=found.text("kind"),
        recipe=found.text_or_none("recipe"),
        expression=found.text_or_none("expression"),
        set={name: scalars.text(name) for name in scalars.found},
        simplified=found.text("simplified"),
        files=found.text("files"),
        measured=found.numbers("measured"),
        coefficients=found.found.get("coefficients"),
        cancelled=tuple(found.texts("cancelled")),
        inputs=inputs,
        decisions=decisions,
        tensors=found.count("tensors"),
        outputs=outputs,
    )


def _input(found: "_Object") -> Input:
    origin = found.text_or_none("origin")
    if origin is not None and not is_origin(origin):
        raise found.broken(f"{quoted(origin)} is no hub id")
    license = found.text_or_none("license")
    if license is not None and not LICENSE.fullmatch(license):
        raise found.broken(f"{quoted(license)} is no license")
    name = found.text("name")
    if not name.isidentifier():
        raise found.broken(f"{quoted(name)} is no name")
    return Input(
        name=name,
        sort=found.one_of("sort", SORTS),
        path=found.text("path"),
        origin=origin,
        strip_prefix=found.text_or_none("strip_prefix"),
        against=found.text_or_none("against"),
        license=license,
        files=tuple(_file(one) for one in found.objects("files")),
    )


def _decisions(found: "_Object") -> Decisions:
    return Decisions(
        donor=found.text("donor"),
        dtype=None if found.found.get("dtype") is None else found.one_of("dtype", _DTYPES),
        shard_size=max(1, found.count("shard_size")),
        on_overflow=found.one_of("on_overflow", ("error", "warn")),
        allow_partial=found.flag("allow_partial"),
        only_shared=found.flag("only_shared"),
        rows=found.one_of("rows", ("all", "common")),
    )


def _file(found: "_Object") -> StoredFile:
    name = found.text("name")
    if not stays_inside(name):
        raise found.broken(f"the file name {quoted(name)} leads out of the folder")
    digests = [found.text("header_sha256"), found.text_or_none("sha256")]
    if not all(digest is None or _DIGEST.fullmatch(digest) for digest in digests):
        raise found.broken(f"a digest of {quoted(name)} is no SHA-256")
    return StoredFile(name, found.count("size"), digests[0] or "", digests[1])


class _Object:
    """A JSON object that a stranger may have written."""

    def __init__(self, found: dict[str, Any], path: str, called: str) -> None:
        self.found, self._path, self._called = found, path, called

    def broken(self, reason: str) -> CheckpointError:
        return CheckpointError(
            f"{quoted(self._path)} is damaged or hostile: {reason}",
            help="merge again; only the inputs and the expression can tell what it should say",
        )

    def text(self, key: str) -> str:
        return str(self._typed(key, str, "a text"))

    def text_or_none(self, key: str) -> str | None:
        return None if self.found.get(key) is None else self.text(key)

    def one_of(self, key: str, known: tuple[str, ...]) -> str:
        if self.text(key) not in known:
            raise self.broken(f"{key} of {self._called} is none of {', '.join(known)}")
        return self.text(key)

    def flag(self, key: str) -> bool:
        return bool(self._typed(key, bool, "true or false"))

    def count(self, key: str) -> int:
        value = self._typed(key, int, "a whole number")
        if isinstance(value, bool) or not 0 <= value <= _LARGEST:
            raise self.broken(f"{key} of {self._called} is not a count")
        return int(value)

    def numbers(self, key: str) -> dict[str, float]:
        """Return numbers by name; older versions of the package measured nothing."""
        if key not in self.found:
            return {}
        values = self.object(key).found
        if not all(isinstance(value, float) and isfinite(value) for value in values.values()):
            raise self.broken(f"{key} of {self._called} is not a list of numbers")
        return values

    def texts(self, key: str) -> list[str]:
        values = self._typed(key, list, "a list")
        if not all(isinstance(value, str) for value in values):
            raise self.broken(f"{key} of {self._called} is not a list of texts")
        return list(values)

    def object(self, key: str) -> "_Object":
        return _Object(self._typed(key, dict, "an object"), self._path, key)

    def objects(self, key: str) -> list["_Object"]:
        values = self._typed(key, list, "a list")
        if not all(isinstance(value, dict) for value in values):
            raise self.broken(f"{key} of {self._called} is not a list of objects")
        return [_Object(value, self._path, f"one of its {key}") for value in values]

    def _typed(self, key: str, kind: type, words: str) -> Any:
        value = self.found.get(key)
        if not isinstance(value, kind):
            raise self.broken(f"{key} of {self._called} is not {words}")
        return value
