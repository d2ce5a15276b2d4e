"""README.md: the card of a model or an adapter, which the Hub reads and people do.

Everything in it comes from a manifest. Names and texts in that are untrusted: the front matter
holds nothing but tokens of known shape, and below it every text stands in a code span or block that
it cannot leave.
"""

import re
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from taskalg import files
from taskalg.errors import printable
from taskalg.output.manifest import LICENSE, MANIFEST_NAME, Input, Manifest
from taskalg.output.public import hub_id
from taskalg.output.sidefiles import CONFIG_NAME, SideFile

CARD_NAME = "README.md"
_LARGEST_CARD = 1_000_000  # bytes of an input's card
_LONGEST = 4_000  # characters of a text that the card shows
_SHOWN = 24  # characters of a coefficient that the card shows; one that is measured has many
_STATEMENT = re.compile(rf"license:[ \t]*([\"']?)({LICENSE.pattern})\1[ \t]*")
_VAGUE = ("other", "unknown")  # licenses that say nothing by themselves
_LIBRARIES = (
    ("model_index.json", "diffusers"),
    ("modules.json", "sentence-transformers"),
)


def card(manifest: Manifest, side_files: Sequence[SideFile]) -> SideFile:
    """Write the card of a model.

    Args:
        manifest: what it was made from and how.
        side_files: what is published with it; they tell which library loads it.
    """
    blocks = [
        "\n".join(["---", *_front_matter(manifest, side_files), "---"]),
        "# A weighted sum of checkpoints",
        f"Made with taskalg {_code(manifest.version)}, task arithmetic over model checkpoints:",
        _block(manifest.simplified),
        *_texts(manifest),
        "## Checkpoints",
        _table(manifest),
        "## How each number was computed",
        _rounding(manifest),
        "## How to repeat it",
        _repeat(manifest),
    ]
    return SideFile(CARD_NAME, ("\n\n".join(blocks) + "\n").encode())


def adapter_card(manifest: Manifest, base: str | None, residual: float) -> SideFile:
    """Write the card of an adapter.

    Args:
        manifest: what it was made from and how.
        base: the hub id of the model it is added to; None when that is not on the Hub.
        residual: share of the task vector, in the Frobenius norm, that it leaves over.
    """
    front = [] if base is None else [f"base_model: {_scalar(base)}"]
    front += ["base_model_relation: adapter", "library_name: peft"]
    front += ["tags:", "- lora", "- task-arithmetic", "- taskalg"]
    blocks = [
        "\n".join(["---", *front, "---"]),
        "# A task vector as a LoRA adapter",
        f"Made with taskalg {_code(manifest.version)}, task arithmetic over model checkpoints:",
        _block(manifest.simplified),
        *_texts(manifest),
        f"It leaves {100 * residual:.2g} % of this task vector over, in the Frobenius norm.",
        "## Checkpoints",
        _table(manifest),
    ]
    return SideFile(CARD_NAME, ("\n\n".join(blocks) + "\n").encode())


def stated_license(folder: Path | None) -> str | None:
    """Return the license that a model's card states; None when it has no card or states none.

    Only the plain form `license: apache-2.0` counts; lists and licenses of one's own do not.

    Raises:
        CheckpointError: there is a card, and it cannot be read.
    """
    if folder is None or CARD_NAME not in files.list_folder(folder):
        return None
    path = folder / CARD_NAME
    if files.fingerprint(path).size > _LARGEST_CARD:
        return None
    try:
        text = files.read_small(path, _LARGEST_CARD).decode("utf-8")
    except UnicodeDecodeError:
        return None
    lines = text.splitlines()
    if "---" not in lines[1:] or lines[0] != "---":
        return None
    front = lines[1 : lines.index("---", 1)]
    found = [_STATEMENT.fullmatch(line) for line in front if line.startswith("license:")]
    value = found[0][2] if len(found) == 1 and found[0] else None
    return None if value in _VAGUE else value


def _front_matter(manifest: Manifest, side_files: Sequence[SideFile]) -> list[str]:
    origins = [one.origin for one in manifest.inputs if one.origin is not None]
    ids = list(dict.fromkeys(hub_id(origin) for origin in origins))
    lines = [f"base_model: {_scalar(ids[0])}"] if len(ids) == 1 else []
    if len(ids) > 1:
        lines = ["base_model:", *(f"- {_scalar(one)}" for one in ids)]
    lines.append("base_model_relation: merge")
    library = _library(side_files)
    if library is not None:
        lines.append(f"library_name: {library}")
    licenses = {one.license for one in manifest.inputs}
    license = licenses.pop() if len(licenses) == 1 else None
    if license is not None:
        lines.append(f"license: {_scalar(license)}")
    return [*lines, "tags:", "- merge", "- task-arithmetic", "- taskalg"]


def _scalar(token: str) -> str:
    """Write a token that YAML cannot take for a number, a date or a truth value."""
    return token if "/" in token else f'"{token}"'


def _library(side_files: Sequence[SideFile]) -> str | None:
    names = {side_file.name: side_file.content for side_file in side_files}
    for name, library in _LIBRARIES:
        if name in names:
            return library
    is_transformers = b'"model_type"' in names.get(CONFIG_NAME, b"")
    return "transformers" if is_transformers else None


def _texts(manifest: Manifest) -> list[str]:
    """Show what was typed, where that is more than the simplified sum."""
    blocks = []
    if manifest.recipe is not None:
        blocks += ["From this recipe:", _block(manifest.recipe)]
    if manifest.expression is not None and manifest.expression != manifest.simplified:
        blocks += ["From this expression:", _block(manifest.expression)]
    if manifest.set:
        values = "\n".join(f"{name} = {value}" for name, value in manifest.set.items())
        blocks += ["With these scalars:", _block(values)]
    if manifest.measured:
        values = "\n".join(f"{name} = {value}" for name, value in manifest.measured.items())
        blocks += ["With these measured, in the names of the whole files:", _block(values)]
    return blocks


def _table(manifest: Manifest) -> str:
    rows = ["| name | coefficient | source |", "|:--|--:|:--|"]
    for one in manifest.inputs:
        source = one.path if one.origin is None else one.origin
        cells = (_code(one.name), _coefficient(manifest, one), _code(source))
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join([*rows, "", "A coefficient is that of the whole file, task vector or not."])


def _coefficient(manifest: Manifest, one: Input) -> str:
    if not isinstance(manifest.coefficients, dict):
        return "varies with the tensor"
    text = str(manifest.coefficients.get(one.name, "0"))
    if manifest.measured and len(text) > _SHOWN:
        return f"about {float(Fraction(text)):.6g}"
    return _code(text.removesuffix("/1"))


def _rounding(manifest: Manifest) -> str:
    dtype = manifest.decisions.dtype
    to = "the dtype of its tensor" if dtype is None else _code(dtype)
    return (
        f"Each is the exact sum of the stored numbers with exact coefficients, rounded once to {to}"
        " (to nearest, ties to even). Order, hardware and threads do not change a bit of it."
        " The names of the tensors, and the other files of this folder, are those of"
        f" {_code(manifest.decisions.donor)}."
    )


def _repeat(manifest: Manifest) -> str:
    """Show what to type; local checkpoints are PATH, so nothing of a stranger's is typed."""
    local = [one for one in manifest.inputs if one.origin is None]
    given = "".join(" --base PATH" for one in local if one.name == "base")
    given += "".join(f" --model {one.name}=PATH" for one in local if one.name != "base")
    commands = f"taskalg rerun . -o again{given}\ntaskalg verify .{given}"
    return f"{_block(commands)}\n\n`{MANIFEST_NAME}` says what was read, byte for byte."


def _code(text: str) -> str:
    """Put a text of one line in a code span, also inside a table."""
    shown = _cut(printable(text)).replace("|", "\\|")
    fence = "`" * (1 + _longest_run(shown))
    pad = " " if shown[:1] in ("`", "") or shown[-1:] == "`" else ""
    return f"{fence}{pad}{shown}{pad}{fence}"


def _block(text: str) -> str:
    """Put a text of several lines in a code block."""
    lines = [printable(line) for line in _cut(text).splitlines()]
    fence = "`" * max(3, 1 + max(map(_longest_run, lines), default=0))
    return "\n".join([fence, *lines, fence])


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
