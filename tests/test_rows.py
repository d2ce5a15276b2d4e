"""Vocabularies that grew: shared rows are combined, the donor's others are copied."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

import taskalg as ta

Arrays = dict[str, np.ndarray[Any, np.dtype[Any]]]


def model(seed: int, rows: int, width: int = 5) -> Arrays:
    rng = np.random.default_rng(seed)
    return {
        "embed": rng.normal(size=(rows, width)).astype(np.float32),
        "w": rng.normal(size=(4, 3)).astype(np.float32),
    }


def recipe(folder: Path, base: Arrays, ft: Arrays, text: str) -> ta.Recipe:
    save_file(base, folder / "base.safetensors")
    save_file(ft, folder / "ft.safetensors")
    paths = {"base": folder / "base.safetensors", "ft": folder / "ft.safetensors"}
    return ta.compile(text, models=paths)


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from(["base", "ft"]))
def test_shared_rows_are_combined_and_the_donor_s_others_copied(
    tmp_path_factory: pytest.TempPathFactory, mine: int, theirs: int, donor: str
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    base, ft = model(1, mine), model(2, theirs)
    made = recipe(folder, base, ft, "base + 0.5*(ft - base)")
    plan = made.plan(rows="common", donor=donor)
    report = made.save(folder / "out.safetensors", rows="common", donor=donor, threads=2)
    found = load_file(folder / "out.safetensors")
    given_by, count = (base if donor == "base" else ft), min(mine, theirs)
    expected = given_by["embed"].copy()
    halves = (base["embed"][:count].astype(float) + ft["embed"][:count].astype(float)) / 2
    expected[:count] = halves.astype(np.float32)
    assert found["embed"].tobytes() == expected.tobytes()
    wanted = (base["w"].astype(float) + ft["w"].astype(float)) / 2
    assert found["w"].tobytes() == wanted.astype(np.float32).tobytes()
    assert report.bytes_read == plan.bytes_read
    assert len(plan.tensors) == 2


@pytest.mark.parametrize("donor", ["base", "ft"])
def test_a_task_vector_is_zero_in_the_rows_that_one_lacks(tmp_path: Path, donor: str) -> None:
    base, ft = model(1, 7), model(2, 9)
    made = recipe(tmp_path, base, ft, "ft - base")
    made.save(tmp_path / "out.safetensors", rows="common", donor=donor)
    found = load_file(tmp_path / "out.safetensors")["embed"]
    assert found.shape == ((7 if donor == "base" else 9), 5)
    exact = ft["embed"][:7].astype(float) - base["embed"][:7].astype(float)
    assert found[:7].tobytes() == exact.astype(np.float32).tobytes()
    assert not found[7:].any()


def test_rows_are_common_to_all_that_take_part(tmp_path: Path) -> None:
    base, ft = model(1, 6), model(2, 4)
    made = recipe(tmp_path, base, ft, 'base + 0.5*(ft - base)["w"]')
    made.save(tmp_path / "out.safetensors", rows="common")
    found = load_file(tmp_path / "out.safetensors")["embed"]
    assert found.tobytes() == base["embed"].tobytes()


def test_a_large_tensor_is_cut_at_the_row_too(tmp_path: Path) -> None:
    base, ft = model(1, 40_000, 40), model(2, 30_001, 40)
    made = recipe(tmp_path, base, ft, "base + 0.5*(ft - base)")
    made.save(tmp_path / "out.safetensors", rows="common")
    found = load_file(tmp_path / "out.safetensors")["embed"]
    assert found[30_001:].tobytes() == base["embed"][30_001:].tobytes()
    halves = (base["embed"][:30_001].astype(float) + ft["embed"].astype(float)) / 2
    assert found[:30_001].tobytes() == halves.astype(np.float32).tobytes()


def test_without_the_choice_other_rows_are_an_error(tmp_path: Path) -> None:
    made = recipe(tmp_path, model(1, 6), model(2, 4), "base + 0.5*(ft - base)")
    with pytest.raises(ta.MismatchError, match="does not fit"):
        made.plan()
    with pytest.raises(ta.UsageError, match="'all' or 'common'"):
        made.plan(rows="some")


@pytest.mark.parametrize("shape", [(6, 4), (5,), (6, 5, 1)])
def test_other_dimensions_must_agree(tmp_path: Path, shape: tuple[int, ...]) -> None:
    ft = model(2, 6) | {"embed": np.ones(shape, np.float32)}
    made = recipe(tmp_path, model(1, 6), ft, "base + 0.5*(ft - base)")
    with pytest.raises(ta.MismatchError):
        made.plan(rows="common")


def test_vectors_are_measured_on_the_rows_that_all_have(tmp_path: Path) -> None:
    base, ft = model(1, 7), model(2, 9)
    vector = recipe(tmp_path, base, ft, "ft - base")
    with pytest.raises(ta.MismatchError, match="does not fit"):
        ta.geometry({"ft": vector}, cache=False)
    known = ta.geometry({"ft": vector}, rows="common", cache=False)
    differences = [(ft[name][:7].astype(float) - base[name][:7]).ravel() for name in base]
    exact = float(np.linalg.norm(np.concatenate(differences)))
    assert known.norm("ft") == pytest.approx(exact, rel=1e-12)
    assert known.norm("2*ft - base + base") == pytest.approx(2 * exact, rel=1e-12)
    with pytest.raises(ta.UsageError, match="rows is"):
        ta.geometry({"ft": vector}, rows="some")
