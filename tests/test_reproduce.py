"""All experiments in the fast mode: what is written, what it says, and what can go wrong."""

import csv
import json
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from subprocess import PIPE, CompletedProcess, run

import click
import pytest

pytest.importorskip("sklearn", reason="the experiments need it")
pytest.importorskip("matplotlib", reason="the experiments need it")

from paper.experiment import Claim, Experiment, Results, Section, Table, Trial, mean_percent
from paper.report import report, section_text
from paper.running import run_all
from tests.terminals import Terminal
from tests.test_docs import matches, stated

EXAMPLES = Path(__file__).parent.parent / "examples"
SCRIPTS = ("forgetting", "addition", "analogies", "language_model", "task_vectors")
Reproduced = tuple[Path, CompletedProcess[str]]


# ---- All of it, in the fast mode


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory: pytest.TempPathFactory) -> Reproduced:
    out = tmp_path_factory.mktemp("paper") / "reproduced"
    return out, ran(EXAMPLES / "reproduce.py", "--fast", "-o", out)


def ran(*command: str | Path, timeout: float = 500) -> CompletedProcess[str]:
    return run([sys.executable, *command], capture_output=True, encoding="utf-8", timeout=timeout)


def numbers(folder: Path, table: int) -> dict[str, list[float]]:
    """Return a table's numbers by the name of the row."""
    text = (folder / f"table-{table}.csv").read_text(encoding="utf-8")
    rows = list(csv.reader(text.splitlines()))
    assert len({len(row) for row in rows}) == 1
    return {row[0]: [float(cell) for cell in row[1:] if is_number(cell)] for row in rows[1:]}


def is_number(cell: str) -> bool:
    return re.fullmatch(r"-?[0-9.]+(e\+\d+)?|inf", cell) is not None


def papers(text: str) -> list[str]:
    """Return the claims of the paper in what a script prints."""
    return re.findall(r"^ *paper: (.*)$", text, re.MULTILINE)


def test_it_ends_well_and_is_quiet_in_a_pipe(reproduced: Reproduced) -> None:
    out, done = reproduced
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith(f"\nwrote {out / 'REPORT.md'}\n")


def test_what_the_report_names_is_there_and_nothing_else(reproduced: Reproduced) -> None:
    out, _ = reproduced
    text = (out / "REPORT.md").read_text(encoding="utf-8")
    links = set(re.findall(r"\]\(([^):]+)\)", text))
    written = [path for path in out.rglob("*") if path.suffix in (".csv", ".png")]
    assert links == {path.relative_to(out).as_posix() for path in written}
    assert {link.partition("/")[0] for link in links} == set(SCRIPTS)
    assert all(p.read_bytes().startswith(b"\x89PNG") for p in written if p.suffix == ".png")
    assert "This was the fast mode" in text


def test_the_report_has_what_is_printed(reproduced: Reproduced) -> None:
    out, done = reproduced
    text = (out / "REPORT.md").read_text(encoding="utf-8")
    printed = list(zip(papers(done.stdout), re.findall(r"here: +(.*)", done.stdout), strict=True))
    assert len(printed) > 10
    assert re.findall(r"^\| (.*) \| (.*) \| (?:yes|\*\*no\*\*) \|$", text, re.MULTILINE) == printed


def test_scripts_say_in_advance_what_they_compare(reproduced: Reproduced) -> None:
    """The numbers of the three seeds are checked by a soak."""
    compared = [paper for name in SCRIPTS for paper in papers(stated(EXAMPLES / f"{name}.py"))]
    assert compared == papers(reproduced[1].stdout)


def test_a_negated_vector_forgets_its_target_and_little_else(reproduced: Reproduced) -> None:
    rows = numbers(reproduced[0] / "forgetting", 1)
    (target, control), (forgotten, kept) = rows["pre-trained"], rows["negated vector"]
    assert rows["fine-tuned"][0] > target + 3
    assert forgotten < target - 20
    assert kept > 0.92 * control  # λ was chosen by other digits to keep 95 percent
    assert abs(rows["random vector"][0] - target) < 2
    assert rows["gradient ascent"][1] < 0.5 * control


def test_a_sum_knows_what_its_vectors_know(reproduced: Reproduced) -> None:
    rows = numbers(reproduced[0] / "addition", 1)
    assert rows["2"][1] >= 97
    assert rows["3"][1] >= 90
    for _, own, _, every, base in rows.values():
        assert own >= every  # what was not added is not learned
        assert own > base
    assert rows["1"][3] < rows["2"][3] < rows["3"][3]


def test_an_analogy_comes_nearer_to_the_oracle(reproduced: Reproduced) -> None:
    rows = numbers(reproduced[0] / "analogies", 1)
    assert rows["auxiliary"] < rows["analogy"] < rows["oracle"]


def test_a_language_model_is_less_rude(reproduced: Reproduced) -> None:
    rows = numbers(reproduced[0] / "language_model", 1)
    assert rows["negated vector"][0] < rows["pre-trained"][0] < rows["fine-tuned on rude"][0]
    assert rows["random vector"][0] == pytest.approx(rows["pre-trained"][0], abs=2)


def test_vectors_are_nearly_orthogonal(reproduced: Reproduced) -> None:
    rows = numbers(reproduced[0] / "task_vectors", 1)
    assert rows["kindred"][1] > rows["others"][1]  # means
    assert all(largest < 0.2 for _, _, largest in rows.values())
    by_steps = numbers(reproduced[0] / "task_vectors", 3)
    assert 0.8 < by_steps["100"][-1] < by_steps["300"][-1] == 1


def test_a_merge_can_be_repeated_from_the_folder(reproduced: Reproduced, tmp_path: Path) -> None:
    seed, merged = reproduced[0] / "forgetting" / "seed-0", tmp_path / "merged.safetensors"
    expression = "base - 0.5*holes"
    done = ran("-m", "taskalg", "merge", "-f", seed / "zoo.ta", expression, "-o", merged)
    assert done.returncode == 0, done.stderr
    assert merged.stat().st_size > (seed / "base.safetensors").stat().st_size / 2


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_print_what_they_say(name: str, tmp_path: Path) -> None:
    """All three seeds: up to two minutes each. Decimals stand for any, samples for any words."""
    script = EXAMPLES / f"{name}.py"
    done = ran(script, "-o", tmp_path / "out", timeout=1500)
    assert matches(stated(script), done.stdout, about=True), done.stdout


# ---- How experiments are run


def counted(trial: Trial) -> Results:
    (trial.folder / "seen.json").write_text(json.dumps([trial.seed, trial.fast]))
    trial.told(0.5)
    return {"seed": trial.seed}


def broken(trial: Trial) -> Results:
    raise ValueError(f"seed {trial.seed} is broken")


def added(seeds: Sequence[Results]) -> Section:
    found = [seed["seed"] for seed in seeds]
    return Section(f"seeds {found}", (), (), (Claim("three", str(len(found)), len(found) == 3),))


SMALL = Experiment("small", "A small one", 1, counted, added)


def test_seeds_are_told_in_order_wherever_they_ran(tmp_path: Path) -> None:
    large = replace(SMALL, name="large", seconds=9)
    found = run_all([SMALL, large], tmp_path / "out", fast=False)
    assert list(found) == ["small", "large"]
    assert all(section.text == "seeds [0, 1, 2]" for section in found.values())
    seen = tmp_path / "out" / "large" / "seed-2" / "seen.json"
    assert json.loads(seen.read_text()) == [2, False]


def test_the_fast_mode_has_one_seed(tmp_path: Path) -> None:
    section = run_all([SMALL], tmp_path, fast=True)["small"]
    assert section.text == "seeds [0]"
    assert not section.claims[0].holds


def test_what_fails_in_a_process_fails(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="seed 0 is broken"):
        run_all([SMALL, replace(SMALL, name="broken", measure=broken)], tmp_path, fast=True)


def test_a_folder_of_an_earlier_run_is_used_again_and_no_other(tmp_path: Path) -> None:
    mine, other = tmp_path / "mine", tmp_path / "mine" / "other"
    run_all([SMALL], mine, fast=True)
    other.mkdir()
    (mine / "small" / "old.png").touch()
    run_all([SMALL], mine, fast=True)
    assert other.exists()
    assert not (mine / "small" / "old.png").exists()
    with pytest.raises(click.ClickException, match="holds something else"):
        run_all([SMALL], tmp_path, fast=True)
    assert sorted(tmp_path.iterdir()) == [mine]


def test_a_mistake_is_told_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "precious").touch()
    done = ran(EXAMPLES / "forgetting.py", "--fast", "-o", tmp_path)
    assert done.returncode == 1
    assert done.stderr == (
        f"Error: {tmp_path} holds something else; give another folder, as --out mine\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


def test_what_is_not_installed_is_named(tmp_path: Path) -> None:
    hidden = "import sys; sys.modules['sklearn'] = None; import paper"
    done = run(
        [sys.executable, "-c", hidden], cwd=EXAMPLES, stderr=PIPE, encoding="utf-8", timeout=60
    )
    assert done.returncode == 1
    assert done.stderr == 'the experiments need more: pip install ".[demo]"\n'


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_progress_is_shown_on_a_terminal_and_an_interrupt_ends_all(tmp_path: Path) -> None:
    with Terminal([str(EXAMPLES / "forgetting.py"), "-o", str(tmp_path)], tmp_path) as screen:
        screen.sees("everything", then="forgetting")
        program = screen.program.pid
        children = Path(f"/proc/{program}/task/{program}/children").read_text().split()
        assert len([child for child in children if is_running(child)]) >= 2
        screen.press("\x03")
        assert screen.ends() == 1
        assert "Aborted!" in screen.raw
        deadline = time.monotonic() + 20
        while any(map(is_running, children)) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not any(map(is_running, children))


def is_running(process: str) -> bool:
    """Return whether there is a process that has not ended, even if nobody has asked how."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


# ---- What is written


def test_numbers_are_aligned_to_the_right() -> None:
    table = Table("Caption", ("", "a", "longer"), (("one", "1.5", "2"), ("eleven", "10.5", "")))
    assert table.text() == "            a   longer\none       1.5        2\neleven   10.5"
    assert table.markdown() == (
        "|  | a | longer |\n| --- | --: | --: |\n| one | 1.5 | 2 |\n| eleven | 10.5 |  |"
    )
    assert table.csv() == ",a,longer\none,1.5,2\neleven,10.5,\n"


def test_a_mean_is_written_with_half_the_distance_of_the_outermost() -> None:
    assert mean_percent([0.5]) == "50.0"
    assert mean_percent([0.1, 0.2, 0.6]) == "30.0 ± 25.0"


def test_a_claim_that_does_not_hold_is_said_to_everybody() -> None:
    section = replace(added([{"seed": 0}]), remarks="Because.")
    assert section_text(SMALL, section) == (
        "A small one\n\nseeds [0]\n\npaper: three\nNOT here: 1\n\nBecause."
    )
    assert "| three | 1 | **no** |" in report([SMALL], {"small": section}, ["It took long."])
    holds = added([{"seed": seed} for seed in range(3)])
    assert "| three | 3 | yes |" in report([SMALL], {"small": holds}, [])
