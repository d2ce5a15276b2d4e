"""What is shipped: a source archive, a wheel built from it, and a merge with only that there."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

ROOT = Path(__file__).parent.parent


def run(*command: str, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the source archive, unpack it, and build the wheel from what was in it."""
    folder = tmp_path_factory.mktemp("dist")
    build = (sys.executable, "-m", "hatchling", "build", "-d", str(folder), "-t")
    run(*build, "sdist", cwd=ROOT)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
    run(*build, "wheel", cwd=folder / archive.name.removesuffix(".tar.gz"))
    (found,) = folder.glob("*.whl")
    return found


def test_the_wheel_holds_the_package_and_its_grammar_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        names = file.namelist()
    assert "taskalg/grammar/taskalg.lark" in names
    assert "taskalg/py.typed" in names
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"taskalg"}


def test_an_installed_wheel_merges_from_another_folder(wheel: Path, tmp_path: Path) -> None:
    site, work = tmp_path / "site", tmp_path / "work"
    work.mkdir()
    with zipfile.ZipFile(wheel) as file:
        file.extractall(site)
    for name, value in (("a", 1), ("b", 4)):
        save_file({"w": np.full(3, value, np.float32)}, work / f"{name}.safetensors")
    where = run(
        sys.executable,
        "-c",
        "import taskalg; print(taskalg.__file__)",
        cwd=work,
        PYTHONPATH=str(site),
    )
    assert Path(where.strip()).parent == site / "taskalg"
    models = ("--model", "a=a.safetensors", "--model", "b=b.safetensors")
    command = (sys.executable, "-m", "taskalg", "merge", "2/3*a + b/3", *models, "-o", "out")
    run(*command, cwd=work, PYTHONPATH=str(site))
    assert load_file(work / "out" / "model.safetensors")["w"].tolist() == [2, 2, 2]
