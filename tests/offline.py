"""GPU kernels compiled where there is no GPU, and what their machine code says of them.

    python -m tests.offline < cases.json

Triton decides when a kernel's module is imported whether it is interpreted, as it is in tests, so
kernels are compiled in a process of their own. What they are compiled for is what launch.py starts:
its calls are caught, and so no constant of a kernel is written a second time here.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
ARGUMENTS = {  # by the method of launch.Kernels
    "sum": ("*i64", "*i64", "*fp64", "*i32", "*i64"),
    "exchange": ("*i64", "*i64", "*i64"),
    "multiply": ("*i64", "*i64", "*fp64"),
    "add_up": ("*fp64", "*i64", "*fp64"),
}
PIPES = {  # of an SM, by the beginnings of instructions' names; the first that fits
    "uniform": ("U", "R2UR", "S2UR", "REDUX", "VOTE"),
    "FP64": ("DFMA", "DMUL", "DADD", "DSETP", "DMNMX"),
    "conversion": ("F2F.", "F2I", "I2F", "MUFU"),
    "memory": ("LD", "ST", "ATOM", "RED."),
    "control": ("BRA", "BSSY", "BSYNC", "EXIT", "CALL", "RET", "WARPSYNC", "NOP", "BMOV"),
    "multiply-add": ("IMAD", "FMUL", "FFMA"),
    "integer and logic": ("",),
}


@dataclass(frozen=True)
class Case:
    """A kernel to compile."""

    inputs: tuple[str, ...]  # dtypes
    output: str
    kernel: str = "sum"  # a method of launch.Kernels
    words: Mapping[str, bool] = field(default_factory=lambda: {"aligned": True})  # its keywords
    capability: int = 90
    options: Mapping[str, Any] = field(default_factory=dict)  # in place of those of launch.py

    def __str__(self) -> str:
        names = ", ".join(f"{n} x {name}" for name, n in Counter(self.inputs).items())
        flags = "".join(f", {name}" for name, is_set in self.words.items() if is_set)
        return f"{self.kernel} of {names} -> {self.output}{flags}, sm_{self.capability}"


@dataclass(frozen=True)
class Machine:
    """What a kernel became."""

    elements: int  # of a tile
    ptx: str
    sass: str
    registers: int
    stack: int  # [bytes]
    local: int  # of memory that registers are spilled to [bytes]
    shared: int  # [bytes]

    def widths(self, what: str) -> list[int]:
        """Return bytes of all accesses to global memory, `ld` or `st`, by PTX."""
        found = re.findall(rf"\b{what}\.global(?:\.v(\d))?\.[bsuf](\d+)", self.ptx)
        return [int(count or 1) * int(bits) // 8 for count, bits in found]

    @property
    def fused(self) -> int:
        """How many binary64 multiply-adds there are."""
        return len(re.findall(r"\bfma\.rn\.f64", self.ptx))

    @property
    def fusible(self) -> int:
        """How many binary64 operations ptxas may merge: those that do not say how they round."""
        return len(re.findall(r"\b(?:add|sub|mul)\.f64", self.ptx))

    @property
    def separate(self) -> int:
        """How many binary64 operations round for themselves."""
        return len(re.findall(r"\b(?:add|sub|mul)\.rn\.f64", self.ptx))

    @property
    def spills(self) -> int:
        """How many instructions move registers to and from local memory."""
        return len(re.findall(r"\b(?:LDL|STL)\b", self.sass))

    def fast_loop(self) -> list[str]:
        """Return the instructions that a whole tile of exact sums takes, each with its operands."""
        return fast_loop(self.sass)


def compiled(cases: Sequence[Case]) -> list[Machine]:
    """Compile kernels in a fresh process."""
    output = ran("tests.offline", json.dumps([asdict(case) for case in cases]))
    return [Machine(**found) for found in json.loads(output)]


def ran(module: str, given: str) -> str:
    """Run a module where kernels are compiled, with a cache of its own; return what it prints."""
    known = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    with tempfile.TemporaryDirectory(prefix="taskalg-offline-") as folder:
        done = subprocess.run(
            [sys.executable, "-m", module],
            input=given,
            env=known | {"TRITON_CACHE_DIR": folder, "PYTHONPATH": str(ROOT)},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    return done.stdout


# ---- Machine code


def instructions(sass: str) -> tuple[list[str], list[list[int]]]:
    """Return instructions, and for each the places of those that may come after it."""
    texts: list[str] = []
    labels: dict[str, int] = {}
    for line in sass.splitlines():
        if label := re.match(r"(\.L_x_\d+):", line):
            labels[label[1]] = len(texts)
        elif found := re.match(r"\s*/\*[0-9a-f]{4,}\*/\s+(.*?)\s*;", line):
            texts.append(found[1])
    after: list[list[int]] = []
    for place, text in enumerate(texts):
        jump = re.search(r"\bBRA\b.*`\((\.L_x_\d+)\)", text)
        is_last = re.match(r"(BRA `|EXIT|RET|NOP)", text) is not None
        after.append([] if is_last or place + 1 == len(texts) else [place + 1])
        after[-1] += [labels[jump[1]]] if jump else []
    return texts, after


def fast_loop(sass: str) -> list[str]:
    """Return the shortest loop that multiplies in binary64 and then writes 16 bytes at once.

    It reads, too: a jump over nothing but a load is not taken.
    """
    texts, after = instructions(sass)
    for place, following in enumerate(after):
        skipped = texts[place + 1 : max(following, default=0)]
        jumps = any(re.search(r"\b(BRA|BSSY|EXIT|CALL)\b", other) for other in skipped)
        if len(following) > 1 and not jumps and any("LDG.E.128" in other for other in skipped):
            following[:] = [place + 1]
    stores = [place for place, text in enumerate(texts) if "STG.E.128" in text]
    loops = [[texts[place] for place in _shortest_loop(store, after)] for store in stores]
    return min((loop for loop in loops if any("DFMA" in text for text in loop)), key=len)


def _shortest_loop(start: int, after: Sequence[Sequence[int]]) -> list[int]:
    """Return the shortest way from a place back to it, by breadth."""
    before: dict[int, int] = {}
    reached = [start]
    for place in reached:
        for following in after[place]:
            if following not in before:
                before[following] = place
                reached.append(following)
    if start not in before:
        return []
    loop = [start]
    while (previous := before[loop[-1]]) != start:
        loop.append(previous)
    return loop[::-1]


def by_pipe(texts: Iterable[str]) -> Counter[str]:
    """Count instructions by the pipe that executes them."""
    names = (re.sub(r"^@!?U?P\w+\s+", "", text) for text in texts)
    return Counter(
        next(pipe for pipe, starts in PIPES.items() if name.startswith(starts)) for name in names
    )


# ---- In the process of its own


def _compile(case: Mapping[str, Any]) -> Machine:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from taskalg.engines.gpu import launch
    from taskalg.engines.gpu.tables import tile_size

    inputs, output = [_dtype(name) for name in case["inputs"]], _dtype(case["output"])
    types = ARGUMENTS[case["kernel"]]
    caught: list[tuple[Any, dict[str, Any]]] = []
    start: Any = lambda kernel, programs, arguments, how: caught.append((kernel, how))  # noqa: E731
    launch._start = start
    getattr(launch.Kernels(inputs, output), case["kernel"])(1, *types, **case["words"])
    [(kernel, how)] = caught
    names = kernel.arg_names
    signature = dict(zip(names, types, strict=False)) | dict.fromkeys(how, "constexpr")
    attributes = {(place,): [["tt.divisibility", 16]] for place in range(len(types))}
    source = ASTSource(kernel, signature, how, attributes)
    target = GPUTarget("cuda", case["capability"], 32)
    made = triton.compile(source, target=target, options={**launch.OPTIONS, **case["options"]})
    return Machine(tile_size(inputs), made.asm["ptx"], *_examined(made.asm["cubin"]))


def _dtype(name: str) -> Any:
    from taskalg.dtypes import FLOATING

    return next(dtype for dtype in FLOATING if dtype.name == name)


def _examined(cubin: bytes) -> tuple[str, int, int, int, int]:
    import triton

    tools = Path(triton.__file__).parent / "backends/nvidia/bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        sass = _output(tools / "nvdisasm", "-c", file.name)
        usage = _output(tools / "cuobjdump", "-res-usage", file.name)
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", usage)
    assert found is not None, usage
    registers, stack, shared, local = map(int, found.groups())
    return sass, registers, stack, local, shared


def _output(tool: Path, *arguments: str) -> str:
    return subprocess.run([tool, *arguments], capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    json.dump([asdict(_compile(case)) for case in json.load(sys.stdin)], sys.stdout)
