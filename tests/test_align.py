"""Names: one prefix apart, tied weights stored once or twice, buffers that some savers leave out."""

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hypothesis import assume, given
from hypothesis import strategies as st

from taskalg.errors import TaskalgError
from taskalg.language.nodes import Node
from tests import oracle, strategies
from tests.oracle import Tensors
from tests.strategies import examples, families, plain_sums, sums
from tests.test_laws import expected_rows, in_files, on_disk, recipe_in

# ---- Laws

PREFIXES = ("transformer.", "model.", "layers.", "a.b.", "unet/", "0.", "emb.")


def prefixed(tensors: Tensors, prefix: str) -> Tensors:
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


def outcome(folder: Path, text: str, donor: str) -> tuple[Any, ...]:
    """Return what a plan says and the bytes a run writes, or the error."""
    recipe = recipe_in(folder, text)
    try:
        plan = recipe.plan(donor=donor, allow_partial=True)
        usage = [(u.operand.name, u.tensors, u.bytes_read, u.bytes_copied) for u in plan.usage]
        out = folder / "out.safetensors"
        options = {"allow_partial": True, "overwrite": True, "on_overflow": "warn"}
        report = recipe.save(out, donor=donor, **options)  # type: ignore[arg-type]
        return plan.kind, usage, plan.bytes_written, report.bytes_read, out.read_bytes()
    except TaskalgError as error:
        return type(error), error.message


def all_but(donor: str, family: Mapping[str, Tensors], rng: random.Random) -> dict[str, Tensors]:
    return {
        key: tensors if key == donor else prefixed(tensors, rng.choice(("", *PREFIXES)))
        for key, tensors in family.items()
    }


@examples(60)
@given(families(), plain_sums(2) | sums(2), st.integers(0, 2**32 - 1))
def test_a_prefix_changes_neither_the_plan_nor_a_byte(
    family: dict[str, Tensors], node: Node, seed: int
) -> None:
    text, rng = in_files(node), random.Random(seed)
    rows = expected_rows(text, list(strategies.NAMES))
    assume(any(rows.values()))
    donor = oracle.donor(rows)
    with on_disk(family) as folder:
        expected = outcome(folder, text, donor)
    with on_disk(all_but(donor, family, rng)) as folder:
        assert outcome(folder, text, donor) == expected


@examples(30)
@given(families(), plain_sums(2), st.integers(0, 2**32 - 1))
def test_the_names_written_are_the_donor_s(
    family: dict[str, Tensors], node: Node, seed: int
) -> None:
    text, rng = in_files(node), random.Random(seed)
    rows = expected_rows(text, list(strategies.NAMES))
    assume(any(rows.values()))
    donor, prefix = oracle.donor(rows), rng.choice(PREFIXES)
    with on_disk(family) as folder:
        expected = outcome(folder, text, donor)
        written = oracle.read_file(folder / "out.safetensors")
    with on_disk({**family, donor: prefixed(family[donor], prefix)}) as folder:
        assert outcome(folder, text, donor)[:4] == expected[:4]
        assert oracle.read_file(folder / "out.safetensors") == prefixed(written, prefix)
