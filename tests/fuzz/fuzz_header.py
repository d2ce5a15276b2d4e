"""Fuzzes the header reader: bytes of a file in, tensor specs or a CheckpointError out.

Run it by hand: `python tests/fuzz/fuzz_header.py -runs=1000000`; other options are libFuzzer's.

What is promised: nothing but a CheckpointError is raised, whose message can be printed; what is
accepted obeys the format, judged here without the package's help; the safetensors library accepts
the same files and reads the same from them, but for the differences listed below. Files are
in memory, under the package's own I/O, so that the length before the header is part of it.
"""

import json
import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import safetensors

from tests.fuzz import harness
from tests.fuzz.headers import SIZES, mutate

if __name__ == "__main__":
    import atheris

    watching = atheris.instrument_imports(include=["taskalg.checkpoints", "taskalg.files"])
else:
    watching = nullcontext()
with watching:
    from taskalg.checkpoints import header
    from taskalg.checkpoints import safetensors as reader
    from taskalg.checkpoints.quantized import refuse_quantized
    from taskalg.checkpoints.unsupported import refuse_factors
    from taskalg.errors import CheckpointError

PATH = Path("file.safetensors")
MOST_HEADER = 3000  # bytes, in place of 100,000,000: inputs here are small

# What the library refuses and we accept: the words in its message, and why that is harmless.
LAXER = {
    "floating point `-0.0`": "-0 is a whole number in JSON's grammar, and means 0",
    "number out of range": "in a key that nobody reads; we refuse such a shape or range",
    "recursion limit exceeded": "in a key that nobody reads; Python's parser goes deeper",
}
# What the library accepts and we refuse: the words in our message.
STRICTER = (
    "twice",  # of two equal names it keeps the last
    "does not start with '{'",  # it skips spaces
    "'__metadata__' is not an object",  # it takes null for none
    " has dtype ",  # complex, packed, and FNUZ numbers: nothing that can be summed
    " more than 64 dimensions",
    " overflows",  # behind a zero
    "more brackets than any list of tensors",
    f"no reader accepts more than {MOST_HEADER:,}",
)

tally = harness.Tally("header", "past the JSON parser")


memory = harness.Memory()


def install() -> Callable[[], None]:
    """Put files in memory under the package; return what takes them away again."""
    limit, parse = reader.LARGEST_HEADER, vars(header)["parse_object"]
    put_back = memory.install()

    def counted(*arguments: Any) -> Any:
        found = parse(*arguments)
        tally.outcomes[tally.deep] += 1
        return found

    reader.LARGEST_HEADER = MOST_HEADER
    vars(header)["parse_object"] = counted

    def restore() -> None:
        put_back()
        reader.LARGEST_HEADER = limit
        vars(header)["parse_object"] = parse

    return restore


# ---- What is promised


def check(content: bytes) -> None:
    """Read a file with both readers and compare."""
    tally.executions += 1
    memory.files[str(PATH)] = content
    theirs, words = reference(content)
    try:
        found = reader.read_header(PATH)
    except CheckpointError as error:
        said = str(error)
        harness.check_message(said, 1000)
        if theirs is None:
            tally.outcomes["refused by both"] += 1
        else:
            tally.outcomes[f"refused by us alone: {_class(said, STRICTER)}"] += 1
        return
    check_specs(found.tensors, content)
    if theirs is None:
        tally.outcomes[f"accepted by us alone: {_class(words, LAXER)}"] += 1
    else:
        assert theirs == ours(found.tensors, content)
        tally.outcomes["accepted by both"] += 1
    try:
        tensors = {spec.name: spec for spec in found.tensors}
        refuse_quantized(tensors, str(PATH))
        refuse_factors(tensors, str(PATH))
    except CheckpointError:
        tally.outcomes["quantized, or an adapter's factors"] += 1


def _class(said: str, known: Iterable[str]) -> str:
    found = next((words for words in known if words in said), None)
    assert found is not None, f"a difference that is not on the list: {said}"
    return found


def reference(content: bytes) -> tuple[Any, str]:
    """Return what the library reads, or None and why not."""
    try:
        found = safetensors.deserialize(content)  # type: ignore[no-untyped-call]
    except safetensors.SafetensorError as error:
        return None, str(error)
    return {name: (i["dtype"], tuple(i["shape"]), bytes(i["data"])) for name, i in found}, ""


def ours(specs: Sequence[Any], content: bytes) -> Any:
    """Return what we read, in the same form."""
    return {
        spec.name: (spec.dtype.code, spec.shape, content[spec.offset : spec.offset + spec.nbytes])
        for spec in specs
    }


def check_specs(specs: Sequence[Any], content: bytes) -> None:
    """Check that specs tile the file, fit their shapes, and are what the header's text says."""
    length = int.from_bytes(content[:8], "little")
    text = content[8 : 8 + length].decode("utf-8")
    keys = [key for key, _ in json.loads(text, object_pairs_hook=list)]
    end = 8 + length
    for spec in specs:
        assert spec.offset == end
        assert spec.nbytes == math.prod(spec.shape) * SIZES[spec.dtype.code]
        end += spec.nbytes
    assert end == len(content)
    assert len(keys) == len(set(keys))
    assert sorted(spec.name for spec in specs) == sorted(set(keys) - {"__metadata__"})


if __name__ == "__main__":
    install()
    harness.run(check, mutate, tally)
