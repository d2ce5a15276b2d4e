"""Peak resident memory of `taskalg merge` at 0.25, 1 and 4 GB per input.

    python tests/bench/memory.py

Claim: at most 400 MB, and the same whatever the size. The kernel's own two counts must agree: the
high-water mark that the command reports, and what the kernel tells the parent.
"""

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.bench import common

LIMIT = 400  # MB
FLAT = 1.1  # largest over smallest
NAMES = ("base", "toxic", "sent_yelp")
EXPRESSION = "base - 0.4*toxic + 0.3*sent_yelp"
WRITE = """
import sys
from pathlib import Path
from tests.bench import common
common.write_models(Path(sys.argv[1]), common.llama(float(sys.argv[2])), sys.argv[3:], shards=3)
"""


def measure(folder: Path, label: str, *options: str) -> float:
    """Merge, print both counts, and return the larger [MB]."""
    bound = common.bindings(folder, NAMES)
    out = folder / "out"
    command: common.Command = [
        *common.TASKALG,
        "merge",
        EXPRESSION,
        *bound,
        "-o",
        out,
        "--json",
        *options,
    ]
    outcome = common.run(command)
    shutil.rmtree(out)
    report = json.loads(outcome.output)
    own, kernels = float(report["peak_memory"]) / 1e6, outcome.peak_memory / 1e6
    print(
        f"{label:<28}{report['bytes_read'] / 1e9:>8.2f} GB read"
        f"{own:>9.0f} MB reported{kernels:>9.0f} MB by wait4{outcome.seconds:>8.1f} s",
        flush=True,
    )
    return max(own, kernels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--dir",
        type=Path,
        default=Path(tempfile.gettempdir()),
        help="on a disk: an in-memory file system would need 16 GB",
    )
    parser.add_argument("--quick", action="store_true", help="a sixteenth of the sizes")
    options = parser.parse_args()
    common.print_machine()
    peaks: list[float] = []
    for gigabytes in (0.25, 1.0, 4.0):
        size = gigabytes / 16 if options.quick else gigabytes
        with common.scratch(options.dir) as folder:
            # in a process of its own: the kernel counts this one's memory as its children's
            common.run([sys.executable, "-c", WRITE, folder, str(size), *NAMES])
            if not peaks:
                measure(folder, "first run, may compile")
            peaks.append(measure(folder, f"3 x {size:.2f} GB"))
            if len(peaks) == 1:
                peaks.append(measure(folder, f"3 x {size:.2f} GB, 64 threads", "--threads=64"))
    print()
    common.judge("peak memory", max(peaks), LIMIT, " MB")
    sizes = [peaks[0], *peaks[2:]]
    common.judge("largest / smallest", max(sizes) / min(sizes), FLAT)


if __name__ == "__main__":
    main()
