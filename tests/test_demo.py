"""The demo is real: it trains, merges through the package, and forgets what it says it forgets."""

import json
import shlex
import sys
from fractions import Fraction
from pathlib import Path

import pytest

from taskalg.demo.__main__ import score
from taskalg.demo.digits import HELPER, TARGET
from taskalg.demo.run import ADDED, KEPT, STRENGTHS, DemoResult, run_demo
from taskalg.errors import UsageError

FILES = ["added", "base", "demo", "holes", "negated", "parity"]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[DemoResult, str]:
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    said: list[str] = []
    result = run_demo(tmp_path_factory.mktemp("one") / "demo", said.append)
    return result, "\n".join(said)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_target_is_forgotten_and_the_control_kept(demo: tuple[DemoResult, str]) -> None:
    found = demo[0]
    assert found.negated.target <= found.pretrained.target - 0.15
    assert found.negated.control >= 0.95 * found.pretrained.control
    assert found.fine_tuned.target > found.pretrained.target


def test_adding_two_task_vectors_helps_both(demo: tuple[DemoResult, str]) -> None:
    found = demo[0]
    assert found.added.target > found.pretrained.target
    assert found.added.helper > found.pretrained.helper


def test_it_leaves_its_checkpoints_and_nothing_else(demo: tuple[DemoResult, str]) -> None:
    assert sorted(path.stem for path in demo[0].folder.iterdir()) == FILES


def test_a_second_run_writes_the_same_bytes(demo: tuple[DemoResult, str]) -> None:
    before = contents(demo[0].folder)
    again = run_demo(demo[0].folder, lambda text: None)
    assert contents(demo[0].folder) == before
    assert again == demo[0]


def test_it_says_the_figures_and_the_command(demo: tuple[DemoResult, str]) -> None:
    found, said = demo
    assert f"  {found.command}\n" in said
    for accuracy in (found.pretrained, found.fine_tuned, found.negated):
        assert f"{100 * accuracy.target:.1f} %" in said
        assert f"{100 * accuracy.control:.1f} %" in said
    assert f"base + {float(ADDED)}*({TARGET} + {HELPER})" in said
    assert all(line == line.rstrip() for line in said.splitlines())


def test_the_command_repeats_the_merge(demo: tuple[DemoResult, str]) -> None:
    from click.testing import CliRunner

    from taskalg.cli.main import main

    merged = demo[0].folder / "negated.safetensors"
    before = merged.read_bytes()
    words = shlex.split(demo[0].command)
    assert words[:2] == ["taskalg", "merge"]
    assert CliRunner().invoke(main, words[1:]).exit_code == 0
    assert merged.read_bytes() == before


def test_a_sweep_chooses_the_strength_that_the_demo_chose(
    demo: tuple[DemoResult, str], tmp_path: Path
) -> None:
    from click.testing import CliRunner

    from taskalg.cli.main import main

    folder = demo[0].folder
    words = ["sweep", f"base - λ*{TARGET}", "--base", str(folder / "base.safetensors")]
    words += ["--task", f"{TARGET}={folder / TARGET}.safetensors"]
    tried = [strength for strength in STRENGTHS if strength >= demo[0].strength][:2]
    words += ["--set", "λ=" + ",".join(map(str, tried)), "--csv", str(tmp_path / "scores.csv")]
    words += ["--score", f"{shlex.quote(sys.executable)} -m taskalg.demo {{model}}"]
    words += ["--maximize", "λ", "--subject-to", f"control >= {KEPT}*base.control", "--json"]
    ran = CliRunner().invoke(main, words)
    assert ran.exit_code == 0, ran.output
    chosen = json.loads(ran.stdout)["chosen"]
    assert Fraction(chosen["values"]["λ"]) == demo[0].strength
    assert set(chosen["scores"]) == {TARGET, HELPER, "control"}


def test_scores_of_what_is_no_checkpoint_of_the_demo(tmp_path: Path) -> None:
    from click.testing import CliRunner

    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    (tmp_path / "x.safetensors").write_bytes(b"nothing")
    ran = CliRunner().invoke(score, [str(tmp_path / "x.safetensors")])
    assert ran.exit_code == 4
    assert "is not of the demo's network" in ran.output


def test_torch_keeps_its_threads_and_random_numbers(tmp_path: Path) -> None:
    import torch

    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    threads, state = torch.get_num_threads(), torch.random.get_rng_state()
    run_demo(tmp_path / "demo", lambda text: None)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_folder_with_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("do not touch", encoding="utf-8")
    with pytest.raises(UsageError, match=r"is not empty\n.*thesis\.txt"):
        run_demo(tmp_path, lambda text: None)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_demo_that_something_was_added_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "demo.txt").write_text("", encoding="utf-8")
    (tmp_path / "mine.safetensors").write_bytes(b"")
    with pytest.raises(UsageError, match=r"mine\.safetensors"):
        run_demo(tmp_path, lambda text: None)


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError, match="is a file, not a folder"):
        run_demo(tmp_path / "file", lambda text: None)


@pytest.mark.parametrize("module", ["sklearn", "torch"])
def test_a_missing_package_is_named(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError, match=r'pip install "taskalg\[demo\]"'):
        run_demo(tmp_path / "demo", lambda text: None)
    assert not (tmp_path / "demo").exists()
