"""`taskalg repl`: as a script through a pipe, and with real keys at a pseudo-terminal."""

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from taskalg.cli.main import main
from taskalg.workbench.session import Session
from tests.test_session import write_zoo

ZOO = ["-m", "taskalg", "repl", "zoo.ta"]
needs_terminal = pytest.mark.skipif(os.name == "nt", reason="needs a pseudo-terminal")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make three small checkpoints and a recipe, and go where they are."""
    write_zoo(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TASKALG_CACHE", str(tmp_path / ".cache"))
    return tmp_path


def run(*args: str, stdin: str, code: int = 0) -> Result:
    result = CliRunner().invoke(main, ["repl", *args], input=stdin, prog_name="taskalg")
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


# ---- Scripts


def test_a_script_is_answered_on_stdout_and_nothing_else_is(folder: Path) -> None:
    script = "fix = (base\n  - strength*toxic)\n\n# a comment\nstrength = 1/2\n:equal fix, base\n"
    result = run("zoo.ta", stdin=script)
    assert result.stdout == (
        "model  base - 0.4*toxic\n"
        "       reads 96 B of base and toxic, writes 48 B\n"
        "strength = 0.5, was 0.4; fix follows\n"
        "different: the coefficients of base differ by 0.5\n"
    )
    assert result.stderr.startswith(
        "base, toxic, math, strength and forget loaded (headers only)\n"
    )


def test_a_script_ends_with_its_first_error_and_its_exit_code(folder: Path) -> None:
    result = run("zoo.ta", stdin="strength\nnobody\nstrength\n", code=2)
    assert result.stdout == "0.4\n"
    assert "no checkpoint is named 'nobody'\n  at <2>:1:1\n" in result.stderr
    result = run("zoo.ta", stdin=":save zoo.ta base\nstrength\n", code=5)
    assert result.stdout == ""
    result = run(stdin=":load x nothing.safetensors\n", code=4)
    assert "there is no 'nothing.safetensors'" in result.stderr


def test_a_script_may_end_anywhere(folder: Path) -> None:
    assert run(stdin="").output == ""
    assert run(stdin="1/3").stdout == "1/3\n"
    assert run(stdin=":quit\nnobody\n").stdout == ""
    assert "ends too soon" in run(stdin="(1 +\n", code=2).stderr


def test_names_come_from_options_too(folder: Path) -> None:
    options = ["--base", "base.safetensors", "--task", "toxic=toxic.safetensors", "--set", "s=1/3"]
    result = run(*options, stdin="base - s*toxic\n:save fix.ta\n:load fix.ta\n")
    assert result.stdout.splitlines()[0] == "model  base - 1/3*toxic"
    assert (folder / "fix.ta").read_text("utf-8").splitlines() == [
        'base = checkpoint("base.safetensors")',
        'toxic = task("toxic.safetensors")',
        "s = 1/3",
        "base - s*toxic",
    ]


def test_two_recipes_are_one_too_many(folder: Path) -> None:
    assert "two recipes are given" in run("zoo.ta", "-f", "zoo.ta", stdin="", code=2).stderr


def test_a_file_that_cannot_be_opened_does_not_keep_the_others_from_being_used(
    folder: Path,
) -> None:
    (folder / "math.safetensors").unlink()
    result = run("zoo.ta", stdin="base - toxic\n")
    assert "there is no 'math.safetensors'" in result.stderr
    assert result.stdout.startswith("model  base - toxic\n")


def test_text_that_is_not_utf_8_is_an_error_not_a_bug(folder: Path) -> None:
    found = CliRunner().invoke(main, ["repl"], input=b"base + \xff\n")
    assert found.exit_code == 2
    assert "unexpected" in found.stderr


# ---- At a terminal


@needs_terminal
def test_a_newcomer_gets_from_help_to_a_merged_checkpoint(folder: Path) -> None:
    from tests.terminals import Terminal

    with Terminal(["-m", "taskalg", "repl"], folder, XDG_STATE_HOME=str(folder)) as screen:
        screen.sees(":help says what can be typed")
        screen.press(":help\r")
        screen.sees(":merge fix fixed/")
        screen.press(":load base base.safetensors\r")
        screen.sees("model  base")
        screen.press(":load --task toxic toxic.safetensors\r")
        screen.sees("task vector  toxic")
        screen.press("fix = base - 0.4*toxic\r")
        screen.sees("reads 96 B of base and toxic")
        screen.press(":save fix.ta fix\r")
        screen.sees("wrote fix.ta")
        screen.press(":merge fix fixed/\r")
        screen.sees("wrote fixed")
        screen.press(":quit\r")
        assert screen.ends() == 0
    assert (folder / "fix.ta").is_file()
    assert (folder / "fixed" / "model.safetensors").is_file()


@needs_terminal
def test_keys_complete_continue_and_cancel(folder: Path) -> None:
    from tests.terminals import Terminal

    with Terminal(ZOO, folder, XDG_STATE_HOME=str(folder)) as screen:
        screen.sees(":help says what can be typed")
        screen.press("stren\t")
        screen.sees("gth", then="")
        screen.press("*2\r")
        screen.sees("0.8")
        screen.press("base + (toxic\r")
        screen.sees("...", then="")
        screen.press("* 2)\r")
        screen.sees("model  base + 2*toxic")
        screen.press('toxic["lay\t')
        screen.sees("ers.", then="")
        screen.press('*.w"]\r')
        screen.sees('task vector  toxic["layers.*.w"]')
        screen.press("nobody\x03")
        screen.sees("")
        screen.press("strength\r")
        assert "no checkpoint" not in screen.sees("0.4")
        screen.press("nobody\r")
        shown = screen.sees("no checkpoint is named 'nobody'")
        assert "| ^^^^^^" in shown
        assert "\x1b[31m" in screen.raw
        screen.press("(1\r")
        screen.sees("...", then="")
        screen.press("\r")  # an empty line ends what is not complete
        screen.sees("ends too soon")
        screen.press("\x04")
        assert screen.ends() == 0


@needs_terminal
def test_ctrl_c_ends_the_work_and_not_the_session(folder: Path) -> None:
    from tests.terminals import Terminal

    sleeping = "import sys, time; print('asleep', file=sys.stderr, flush=True); time.sleep(600)"
    (folder / "sleep.py").write_text(sleeping, encoding="utf-8")
    score = f"'{sys.executable}' sleep.py {{model}}"
    with Terminal(ZOO, folder, XDG_STATE_HOME=str(folder)) as screen:
        screen.sees(":help says what can be typed")
        screen.press(f':sweep base - s*toxic --set s=0:1:0.5 --score "{score}" --verbose\r')
        screen.sees("asleep", then="")
        screen.press("\x03")
        screen.sees("interrupted")
        screen.press("strength\r")
        screen.sees("0.4")
        screen.press(":merge base - 0.5*toxic merged\r")
        screen.sees("wrote merged")


@needs_terminal
def test_inputs_are_kept_for_the_next_session(folder: Path) -> None:
    from tests.terminals import Terminal

    state = folder / "not" / "there"
    with Terminal(ZOO, folder, XDG_STATE_HOME=str(state)) as screen:
        screen.sees(":help says what can be typed")
        assert not state.exists()
        screen.press("strength/3\r")
        screen.sees("2/15")
        screen.press("\x04")
        assert screen.ends() == 0
    (history,) = (state / "taskalg").iterdir()
    assert stat.S_IMODE(history.stat().st_mode) == 0o600
    with Terminal(ZOO, folder, XDG_STATE_HOME=str(state)) as screen:
        screen.sees(":help says what can be typed")
        screen.press("\x1b[A\r")
        screen.sees("2/15")


@needs_terminal
def test_a_session_without_a_place_for_its_history_has_none(folder: Path) -> None:
    from tests.terminals import Terminal

    (folder / "file").write_text("in the way", encoding="utf-8")
    with Terminal(ZOO, folder, XDG_STATE_HOME=str(folder / "file"), NO_COLOR="1") as screen:
        screen.sees(":help says what can be typed")
        screen.press("strength/3\r")
        screen.sees("2/15")
        screen.press("nobody\r")
        screen.sees("no checkpoint is named 'nobody'")
        assert "\x1b[31m" not in screen.raw
        screen.press("\x04")
        assert screen.ends() == 0


PLAIN = "import sys; sys.modules['prompt_toolkit'] = None; from taskalg.__main__ import run; run()"


@needs_terminal
def test_without_prompt_toolkit_lines_are_plain(folder: Path) -> None:
    from tests.terminals import Terminal

    with Terminal(["-c", PLAIN, "repl", "zoo.ta"], folder) as screen:
        screen.sees('pip install "taskalg[repl]"')
        screen.press("base + (toxic\n")
        screen.sees("...", then="")
        screen.press(")\n")
        screen.sees("model  base + toxic")
        screen.press("strength +")
        screen.sees("strength +", then="")
        time.sleep(0.5)  # Python misses a signal that comes just before it waits for a key
        screen.press("\x03")
        screen.sees("")
        screen.press("strength\n")
        screen.sees("0.4")
        screen.press("\x04")
        assert screen.ends() == 0


@needs_terminal
def test_a_terminal_that_knows_no_movements_gets_plain_lines(folder: Path) -> None:
    from tests.terminals import Terminal

    with Terminal(ZOO, folder, TERM="dumb") as screen:
        assert "pip install" not in screen.sees(":help says what can be typed")
        screen.press("strength/3\n")
        screen.sees("2/15")
        screen.press("\x04")
        assert screen.ends() == 0
        assert "\x1b" not in screen.raw


SLOW = """
import os, signal, time
os.kill(os.getpid(), signal.SIGINT)
time.sleep(0.2)
done = True
"""


@needs_terminal
def test_ctrl_c_waits_until_a_module_is_whole(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "slow_to_import.py").write_text(SLOW, encoding="utf-8")
    monkeypatch.syspath_prepend(folder)
    importing = []

    def load(*_: object) -> None:
        importing.append(1)
        import slow_to_import  # type: ignore[import-not-found]

        assert slow_to_import.done
        importing.append(2)
        time.sleep(60)  # is cut short

    monkeypatch.setattr("taskalg.workbench.session.Session.start", load)
    result = CliRunner().invoke(main, ["repl"], input="", prog_name="taskalg")
    assert result.exit_code == 130
    assert importing == [1, 2]


@needs_terminal
def test_a_signal_to_end_ends_the_session(folder: Path) -> None:
    from tests.terminals import Terminal

    with Terminal(ZOO, folder, XDG_STATE_HOME=str(folder)) as screen:
        screen.sees(":help says what can be typed")
        screen.program.send_signal(signal.SIGTERM)
        assert screen.ends() == 130


# ---- What could stand at the cursor


@pytest.fixture
def session(folder: Path) -> Iterator[Session]:
    session = Session()
    session.start("zoo.ta")
    (folder / "my models").mkdir()
    (folder / ".hidden").write_text("", encoding="utf-8")
    yield session


@pytest.mark.parametrize(
    ("before", "offered"),
    [
        ("str", ["strength"]),
        ("base + for", ["forget("]),
        ("mea", ["mean("]),
        ("2", []),
        ('base + "', []),
        (":e", [":explain", ":equal"]),
        (":help mer", ["merge"]),
        (":help le", ["let", "lerp"]),
        (":nothing b", []),
        (":explain ba", ["base"]),
        (":save fix.ta ba", ["base.safetensors", "base"]),
        (":save fix.ta base --", ["--overwrite"]),
        (":load base b", ["base.safetensors"]),
        (":load base m", ["math.safetensors", '"my models/']),
        (':load base "my', ["my models/"]),
        (":load base .h", [".hidden"]),
        (":load base nowhere/", []),
        ('x = checkpoint("ba', ['base.safetensors"']),
        ('toxic["', ["head.", "layers."]),
        ('toxic["layers.', ["layers.*."]),
        ('toxic["*.', ["*.*.", "*.w"]),
        ('toxic[0:1, ~"he', ["head."]),
        (':explain toxic["he', ["head."]),
        ("# str", []),
        ('checkpoint("\0/', []),
    ],
)
def test_completion_offers(session: Session, before: str, offered: list[str]) -> None:
    found = session.offers(before)
    if before == 'base + "':
        assert any(one.text == 'zoo.ta"' for one in found)
        return
    assert [one.text for one in found] == offered
    for one in found:
        assert one.text.strip('"').startswith(before[len(before) - one.replaces :].strip('"'))


def test_an_offer_says_what_it_is(session: Session) -> None:
    offers = {one.text: one.meta for one in session.offers("")}
    assert offers["strength"] == "0.4"
    assert offers["toxic"] == 'task("toxic.safetensors")'
    assert offers["forget("] == "forget(t, amount) = -amount*t"
    assert offers["lerp("] == "lerp(a, b, t)"


def test_the_editor_is_loaded_only_where_somebody_types(folder: Path) -> None:
    program = (
        "import sys; from taskalg.cli.main import main; main(['repl', 'zoo.ta'], 'taskalg', "
        "standalone_mode=False); print('taskalg.workbench.prompting' in sys.modules)"
    )
    command = [sys.executable, "-c", program]
    asked = subprocess.run(command, input=b"strength\n", capture_output=True, check=True)
    assert asked.stdout.split() == [b"0.4", b"False"]
