"""The sweep command: a scorer for each point, the chosen one merged, nothing left behind."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from taskalg import files
from taskalg.cli.main import main
from taskalg.errors import OutputError
from taskalg.sweeping.command import read_command
from tests import oracle
from tests.merging import tree
from tests.test_sweep import hidden

# What a scorer may do without NumPy: the first number of a tensor, and the place it was given.
SCORER = """
import json, os, struct, sys
path = sys.argv[1] + "/model.safetensors"
content = open(path, "rb").read()
size = struct.unpack("<Q", content[:8])[0]
header = json.loads(content[8:8 + size])
start = header["w"]["data_offsets"][0] + 8 + size
(first,) = struct.unpack("<f", content[start:start + 4])
print("scoring", path, file=sys.stderr)
with open("seen.txt", "a", encoding="utf-8") as seen:
    print(sys.argv[1], os.environ.get("TASKALG_λ", "-"), file=seen)
print("a line before")
print(json.dumps({"control": round(1 - abs(first - 1) / 20, 6), "toxic": round(first, 6)}))
"""


TEXT = "base - λ*toxic"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make two small models and a scorer, and go where they are."""
    for name, values in {"base": b"\0\0\x80\x3f" * 4, "toxic": b"\0\0\0\x40" * 4}.items():
        (tmp_path / name).mkdir()
        tensor = oracle.Tensor("F32", (2, 2), values)
        oracle.write_file(tmp_path / name / "model.safetensors", {"w": tensor}, {"format": "pt"})
        (tmp_path / name / "config.json").write_text('{"model_type": "tiny"}', "utf-8")
    (tmp_path / "score.py").write_text(SCORER, "utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


FILES = ["--base", "base", "--task", "toxic=toxic"]
SCORE = ["--score", f"{shlex.quote(sys.executable)} -S score.py {{model}}"]
SWEEP = [TEXT, *FILES, "--set", "λ=0:1:0.25", *SCORE]
KEEPS = ["--maximize", "λ", "--subject-to", "control >= 0.975*base.control"]


def run(*args: str, code: int = 0) -> Result:
    result = CliRunner().invoke(main, list(args), prog_name="taskalg")
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


def seen(folder: Path) -> list[list[str]]:
    """Return what the scorer was given, and forget it."""
    path = folder / "seen.txt"
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return [line.split() for line in lines]


def test_a_sweep_scores_chooses_and_keeps(folder: Path) -> None:
    result = run("sweep", *SWEEP, *KEEPS, "--keep-best", "best")
    assert result.stdout.splitlines()[0].split() == ["λ", "control", "toxic"]
    assert "\n0.25    0.9875    0.75\n 0.5     0.975     0.5   chosen\n" in result.stdout
    assert result.stdout.endswith(
        "\nchosen: λ = 0.5, the largest λ with control >= 0.975*base.control\n"
    )
    told = result.stderr.splitlines()
    assert told[2] == "3/5  λ = 0.5: control 0.975, toxic 0.5"
    assert told[5] == "scores in sweep.csv"
    assert told[-1] == (
        "again: taskalg merge 'base - λ*toxic' --base base --task toxic=toxic --set 'λ=0.5' -o best"
    )
    model = str(folder / ".taskalg-sweep.csv" / "model")
    points = [[model, text] for text in ("0", "0.25", "0.5", "0.75", "1")]
    assert seen(folder) == [[str(folder / "base"), "-"], *points]
    assert sorted(os.listdir(folder)) == ["base", "best", "score.py", "sweep.csv", "toxic"]
    merge = shlex.split(told[-1].removeprefix("again: taskalg ").replace("-o best", "-o merged"))
    run(*merge)
    assert tree(folder / "best") == tree(folder / "merged")


def test_what_is_kept_is_merged_from_the_file_alone_with_merge_s_options(folder: Path) -> None:
    more = ["--dtype", "bf16", "--allow-partial", "--hash"]
    run("sweep", *SWEEP, *KEEPS, *more)
    seen(folder)
    result = run("sweep", *SWEEP, *KEEPS, *more, "--keep-best", "best")
    assert seen(folder) == []
    assert result.stderr.startswith(
        "5 of 5 points are scored already\nscores in sweep.csv\nwrote best"
    )
    command = result.stderr.splitlines()[-1].removeprefix("again: taskalg ")
    assert "--dtype bf16 --allow-partial --hash" in command
    run(*shlex.split(command.replace("-o best", "-o merged")))
    assert tree(folder / "best") == tree(folder / "merged")


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_what_a_command_leaves_behind_is_stopped_and_not_waited_for(folder: Path) -> None:
    (folder / "leave.py").write_text(
        "import subprocess, sys\n"
        "waits = 'import time; time.sleep(60); print(7)'\n"
        "left = subprocess.Popen([sys.executable, '-S', '-c', waits])\n"
        "open('left', 'a').write(f'{left.pid} ')\n"
        "print(1)\n",
        "utf-8",
    )
    leave = python("exec(open('leave.py').read())")
    result = run("sweep", TEXT, *FILES, "--set", "λ=0,1", *leave)
    assert result.stderr.endswith(
        "2/2  λ = 1: score 1\nscores in sweep.csv\n"
    )  # and not 7, a minute later
    for number in (folder / "left").read_text("utf-8").split():
        assert not is_running(int(number))


def is_running(number: int) -> bool:
    """Tell whether a process is there and no zombie, which nobody may be there to reap."""
    for _ in range(100):
        found = subprocess.run(["ps", "-o", "stat=", "-p", str(number)], capture_output=True)
        if found.stdout.strip()[:1] in (b"", b"Z"):
            return False
        time.sleep(0.02)
    return True


def test_only_the_end_of_what_a_command_prints_is_read(folder: Path) -> None:
    loud = "import sys; print('x' * 3_000_000); print(2); print('y' * 3_000_000, file=sys.stderr)"
    result = run("sweep", TEXT, *FILES, "--set", "λ=0,1", *python(loud))
    points = ["1/2  λ = 0: score 2", "2/2  λ = 1: score 2"]
    assert result.stderr.splitlines() == [*points, "scores in sweep.csv"]


def test_a_value_has_its_place_however_its_name_is_typed(folder: Path) -> None:
    micro = "\u00b5"  # in the language it is the Greek letter
    grid = [f"base - {micro}*toxic", *FILES, "--set", f"{micro}=0,1/4"]
    result = run("sweep", *grid, *python(f"print({{{micro}}}) # {{model}}"), "--json")
    assert [point["scores"] for point in json.loads(result.stdout)["points"]] == [
        {"score": 0.0},
        {"score": 0.25},
    ]


def test_when_nothing_meets_the_conditions_nothing_is_kept(folder: Path) -> None:
    never = ["--maximize", "λ", "--subject-to", "control > 1"]
    result = run("sweep", *SWEEP, *never, "--keep-best", "best", code=1)
    assert result.stdout.endswith("\nno point has control > 1; λ = 0 comes closest\n")
    assert "   nearest\n" in result.stdout
    assert not (folder / "best").exists()
    told = json.loads(run("sweep", *SWEEP, *never, "--json", code=1).stdout)
    assert (told["chosen"], told["command"], told["kept"]) == (None, None, None)


def test_json_has_everything_and_quiet_only_the_table(folder: Path) -> None:
    result = run("sweep", *SWEEP, *KEEPS, "--json", "--keep-best", "best")
    told = json.loads(result.stdout)
    assert told["chosen"] == {"values": {"λ": "1/2"}, "scores": {"control": 0.975, "toxic": 0.5}}
    assert told["base"] == {"control": 1.0, "toxic": 1.0}
    assert told["command"].endswith("--set 'λ=0.5' -o best")
    assert told["kept"]["out"] == "best" and told["kept"]["simplified"] == "base - 0.5*toxic"
    assert result.stderr == ""
    result = run("sweep", *SWEEP, "--quiet")
    assert result.stderr == "" and "chosen" not in result.stdout


def test_scalars_are_swept_fixed_shared_and_a_recipe_s_own(folder: Path) -> None:
    Path("r.ta").write_text(
        'base = checkpoint("base")\nt = checkpoint("toxic") - base\nk = 5\nbase + a*b*t + k*c*t\n',
        "utf-8",
    )
    args = ["-f", "r.ta", "--set", "a=b=0, 0.5", "--set", "k=0:1:1", "--set", "c=1/4", *SCORE]
    result = run("sweep", *args, "--maximize", "toxic")
    rows = [line.split() for line in result.stdout.splitlines()]
    assert [row[:3] + row[4:5] for row in rows[1:5]] == [
        ["0", "0", "0", "1"],
        ["0", "0", "1", "1.25"],
        ["0.5", "0.5", "0", "1.25"],
        ["0.5", "0.5", "1", "1.5"],
    ]
    command = result.stderr.splitlines()[-1].removeprefix("again: taskalg ")
    run(*shlex.split(command))
    assert (folder / "OUT" / "model.safetensors").exists()


def test_a_base_that_is_no_folder_is_scored_as_a_point_is(folder: Path) -> None:
    (folder / "base" / "model.safetensors").rename(folder / "b.safetensors")
    args = [TEXT, "--base", "b.safetensors", "--task", "toxic=toxic", "--set", "λ=0,1", *SCORE]
    result = run("sweep", *args, "--maximize", "control - base.control")
    assert result.stdout.splitlines()[1].split() == ["base", "1", "1"]
    assert seen(folder)[0] == [str(folder / ".taskalg-sweep.csv" / "model"), "-"]


def test_words_of_a_command_stay_words_and_get_values(folder: Path) -> None:
    place = folder / "a {λ}; touch ouch"
    place.mkdir()
    (folder / "words.py").write_text(
        "import sys; print(sys.argv[1:], file=open('words', 'a')); print(1)"
    )
    score = f"{shlex.quote(sys.executable)} -S words.py 'x y' at={{λ}} {{other}} {{model}}/w"
    args = [TEXT, *FILES, "--set", "λ=1/3,2", "--score", score, "--scratch", str(place)]
    run("sweep", *args)
    lines = (folder / "words").read_text("utf-8").splitlines()
    (model,) = {model for line in lines for model in re.findall("'([^']+/model/w)'", line)}
    assert Path(model).parents[2] == place
    assert lines == [str(["x y", f"at={text}", "{other}", model]) for text in ("1/3", "2")]
    assert list(place.iterdir()) == [] and not (folder / "ouch").exists()


def test_a_scalar_called_model_does_not_hide_the_model(folder: Path) -> None:
    args = ["base - model*toxic", *FILES, "--set", "model=0,1", *SCORE]
    run("sweep", *args)
    assert {line[0] for line in seen(folder)} == {str(folder / ".taskalg-sweep.csv" / "model")}


def test_where_backslashes_are_no_escapes_words_are_split_as_well(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskalg.sweeping.command._POSIX", False)
    command = read_command('"C:\\Program Files\\python.exe" -S score.py {model}')
    assert command.words == ("C:\\Program Files\\python.exe", "-S", "score.py", "{model}")
    waiting = "import time; time.sleep(60)"
    slow = ["--score", f'"{sys.executable}" -S -c "{waiting}" {{model}}', "--timeout", "0.2"]
    assert "takes longer" in run("sweep", TEXT, *FILES, "--set", "λ=0,1", *slow, code=2).stderr


def python(text: str) -> list[str]:
    return ["--score", shlex.join([sys.executable, "-S", "-c", text, "{model}"])]


@pytest.mark.parametrize(
    "score, words",
    [
        (
            ["--score", "there-is-no-such-program {model}"],
            ["cannot run 'there-is-no-such-program'"],
        ),
        (["--score", "'open"], ["cannot read the command: no closing quotation"]),
        (["--score", " "], ["there is no command"]),
        (python("import sys; sys.exit('too\\nbad')"), ["  | too\n  | bad\n", "status 1; at λ = 0"]),
        (python("print('done')"), ["is no score", "found 'done'; at λ = 0"]),
        ([*python("import time; time.sleep(60)"), "--timeout", "0.2"], ["takes longer than 0.2 s"]),
        ([*SCORE, "--timeout", "0"], ["gets more than 0", "found 0 s"]),
        ([*SCORE, "--timeout", "nan"], ["gets more than 0", "found nan s"]),
        ([*SCORE, "--timeout", "inf"], ["up to 1,000,000 s", "found inf s", "leave out --timeout"]),
        (python("import os; os.kill(os.getpid(), 9)"), ["it was killed by SIGKILL; at λ = 0"]),
        (["--score", "python score.py {model} | tail -1"], ["'|' takes a shell", "score.sh"]),
        ([*SCORE, "--maximize", "contrl"], ["did you mean 'control'?"]),
        ([*SCORE, "--maximize", "base.contrl"], ["did you mean 'base.control'?"]),
        ([*SCORE, "--set", "λ=0.5"], ["--set λ is given twice"]),
        ([*SCORE, "--set", "λ=0,1"], ["--set λ is given twice"]),
        ([*SCORE, "--set", "s=0,1"], ["--set s is used by nothing"]),
        ([*SCORE, "--set", "s"], ["--set s has no value"]),
        ([*SCORE, "--keep-best", "best"], ["--keep-best needs to know what is best"]),
        ([*SCORE, "--plot", "x.txt"], ["'x.txt' is no picture"]),
        ([*SCORE, "--donor", "x"], ["'x'"]),
        ([*SCORE, "--engine", "x"], ["'x'"]),
    ],
)
def test_what_goes_wrong_is_told_and_nothing_is_left(
    folder: Path, score: list[str], words: list[str]
) -> None:
    result = run("sweep", TEXT, *FILES, "--set", "λ=0,1", *score, code=2)
    for some in words:
        assert some in result.stderr
    assert hidden(folder) == [] and result.stdout == ""


def test_nothing_to_sweep_is_told(folder: Path) -> None:
    result = run("sweep", TEXT, *FILES, "--set", "λ=0.4", *SCORE, code=2)
    assert 'give a scalar values: --set "λ=0:1:0.05"' in result.stderr


@pytest.mark.parametrize(
    "output, words",
    [
        (["--keep-best", "toxic"], "the output 'toxic'"),
        (["--keep-best", ""], "the output '.'"),
        (["--plot", "no/x.png"], "there is no folder 'no'"),
    ],
)
def test_an_output_in_the_way_is_told_before_the_first_point(
    folder: Path, output: list[str], words: str
) -> None:
    result = run("sweep", *SWEEP, *KEEPS, *output, code=5)
    assert words in result.stderr
    assert seen(folder) == [] and not (folder / "sweep.csv").exists()


def test_a_folder_for_results_has_to_be_there(folder: Path) -> None:
    assert "there is no folder" in run("sweep", *SWEEP, "--csv", "no/x.csv", code=5).stderr


def test_a_link_in_the_place_of_the_scratch_folder_is_left_alone(folder: Path) -> None:
    (folder / ".taskalg-sweep.csv").symlink_to(folder / "toxic")
    assert "is a link" in run("sweep", *SWEEP, code=5).stderr
    assert (folder / "toxic" / "model.safetensors").exists()


def test_a_command_that_does_not_say_the_model_is_refused(folder: Path) -> None:
    words = [*SWEEP[:-1], SWEEP[-1].removesuffix(" {model}")]
    found = run("sweep", *words, code=2)
    assert "the command does not say {model}" in found.stderr
    assert 'help: write --score "python score.py {model}"' in found.stderr
    asked = f"""{sys.executable} -c "import os; print(len(os.environ['TASKALG_MODEL']))\""""
    run("sweep", *SWEEP[:-1], asked)


def test_scores_of_a_script_that_changed_are_told(folder: Path) -> None:
    before = run("sweep", *SWEEP)
    assert "another version" not in run("sweep", *SWEEP).stderr
    with (folder / "score.py").open("a", encoding="utf-8") as script:
        script.write("# mended\n")
    told = run("sweep", *SWEEP)
    assert "scores are of another version of the script; --restart" in told.stderr
    assert told.stdout == before.stdout
    assert "another version" not in run("sweep", *SWEEP, "--restart").stderr
    assert "another version" not in run("sweep", *SWEEP).stderr


def test_a_failing_command_loses_nothing(folder: Path) -> None:
    script = (folder / "score.py").read_text("utf-8")
    (folder / "score.py").write_text(
        script + 'if os.environ["TASKALG_λ"] == "0.5" and not os.path.exists("ok"): sys.exit(3)\n',
        "utf-8",
    )
    result = run("sweep", *SWEEP, code=2)
    assert "it ended with status 3; at λ = 0.5" in result.stderr
    assert len(seen(folder)) == 3 and hidden(folder) == []
    (folder / "ok").touch()
    run("sweep", *SWEEP)
    assert len(seen(folder)) == 3
    run("sweep", *SWEEP, "--csv", "other.csv")
    assert (folder / "sweep.csv").read_bytes() == (folder / "other.csv").read_bytes()


def test_a_score_is_kept_when_its_folder_cannot_be_removed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = files.remove_folder

    def stuck(path: Path) -> None:
        if path.name == "model":
            raise OutputError("cannot remove 'model': permission denied")
        real(path)

    with monkeypatch.context() as patch:
        patch.setattr(files, "remove_folder", stuck)
        result = run("sweep", *SWEEP, code=5)
    assert "cannot remove 'model': permission denied\n  note: at λ = 0.25" in result.stderr
    assert len(seen(folder)) == 1
    run("sweep", *SWEEP)
    assert len(seen(folder)) == 4 and hidden(folder) == []


def test_another_command_or_a_changed_checkpoint_is_another_sweep(folder: Path) -> None:
    run("sweep", *SWEEP)
    other = [*SWEEP[:-1], SWEEP[-1] + " more"]
    assert "the results of another sweep" in run("sweep", *other, code=2).stderr
    respelled = ["base + (-λ)*(toxic)", *SWEEP[1:]]
    assert "5 of 5 points" in run("sweep", *respelled).stderr
    os.utime(folder / "toxic" / "model.safetensors", ns=(1, 1))
    assert "the results of another sweep" in run("sweep", *SWEEP, code=2).stderr
    run("sweep", *SWEEP, "--restart")


def test_what_a_command_says_is_shown_when_asked(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run("sweep", *SWEEP, "--verbose")
    assert capfd.readouterr().err.count("scoring ") == 5
    run("sweep", *SWEEP, "--csv", "other.csv")
    assert "scoring" not in capfd.readouterr().err


def test_scores_are_drawn(folder: Path) -> None:
    pytest.importorskip("matplotlib")
    told = run("sweep", *SWEEP, *KEEPS, "--plot", "sweep.png").stderr
    assert told.endswith("\nwrote sweep.png\n")
    assert (folder / "sweep.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.skipif(os.name != "posix", reason="pseudo-terminals")
@pytest.mark.parametrize("plain", [True, False])
def test_a_terminal_shows_what_is_done_and_colors_the_chosen_row(folder: Path, plain: bool) -> None:
    import pty

    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "taskalg", "sweep", *SWEEP, *KEEPS]
    environment = {**os.environ, "TERM": "xterm", "NO_COLOR": "1" if plain else ""}
    process = subprocess.Popen(command, stdout=theirs, stderr=theirs, env=environment)
    assert process.wait(timeout=60) == 0
    shown = os.read(ours, 100_000).decode()
    os.close(ours)
    os.close(theirs)
    assert shown.count("scoring\r\x1b[2K") >= 5
    assert "\x1b[2K5/5  λ = 1: control 0.95, toxic 0\r\n" in shown
    row = " 0.5     0.975     0.5   chosen"
    assert (row if plain else f"\x1b[32m\x1b[1m{row}\x1b[0m") in shown


WAITING = """
import os, sys, time
with open("pid.new", "w") as file: print(os.getpid(), file=file)
os.rename("pid.new", "pid")
time.sleep(0 if os.path.exists("go") else 60)
print(1)
"""


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_sweep_leaves_no_scorer_and_no_scratch(
    folder: Path, number: signal.Signals
) -> None:
    sweep = [TEXT, *FILES, "--set", "λ=0,1", *python(WAITING)]
    command = [sys.executable, "-m", "taskalg", "sweep", *sweep]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    while not (folder / "pid").exists() and process.poll() is None:
        time.sleep(0.01)
    scorer = int((folder / "pid").read_text("utf-8"))
    process.send_signal(number)
    _, told = process.communicate(timeout=60)
    if number is signal.SIGKILL:  # nobody could clean up
        assert hidden(folder) == [".taskalg-sweep.csv"]
        os.kill(scorer, signal.SIGKILL)
    else:
        assert process.returncode == 130
        assert b"what is scored is in sweep.csv; the same command goes on" in told
        assert hidden(folder) == []
        with pytest.raises(ProcessLookupError):
            os.kill(scorer, 0)
    (folder / "go").touch()
    run("sweep", *sweep)
    assert hidden(folder) == []
