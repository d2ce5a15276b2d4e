"""Notebooks: lines and cells through IPython itself, and HTML that nothing can break out of."""

import builtins
import math
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from safetensors.numpy import save_file

import taskalg as ta
from taskalg import markup
from taskalg.measuring.geometry import geometry
from taskalg.pictures.canvas import new_figure
from taskalg.running.stream import Progress
from taskalg.sweeping.values import Point, Sweep
from taskalg.workbench import notebook
from tests.test_session import write_zoo

HOSTILE = '<script>alert("1")</script>&\x1b[31m'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_zoo(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Kernel:
    """IPython, and what its cells print."""

    def __init__(self) -> None:
        self.shell: Any = InteractiveShell()  # type: ignore[no-untyped-call]
        self.printed = ""
        self.cell("%load_ext taskalg")

    def cell(self, text: str) -> Any:
        """Run a cell that is right and return its result."""
        result = self.run(text)
        assert result.success, self.printed
        return result.result

    def run(self, text: str) -> Any:
        with capture_output() as captured:
            result = self.shell.run_cell(text, store_history=True)
        self.printed = captured.stdout + captured.stderr
        return result


@pytest.fixture
def kernel(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Kernel]:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path_factory.mktemp("ipython")))
    monkeypatch.delattr(builtins, "_", raising=False)  # doctest's, which IPython respects
    before = sys.displayhook, sys.excepthook
    made = Kernel()
    yield made
    made.shell.history_manager.end_session()
    made.shell.restore_sys_module_state()
    sys.displayhook, sys.excepthook = before


# ---- Lines and cells


def test_a_line_s_value_is_its_result(kernel: Kernel) -> None:
    kernel.cell("%taskalg :load zoo.ta")
    found = kernel.cell("fix = %taskalg base - 0.5*toxic")
    assert found is None  # assigned
    assert repr(kernel.cell("fix")) == "model  base - 0.5*toxic"
    assert repr(kernel.cell("%taskalg base + 0.1*math")) == "model  base + 0.1*math"
    assert repr(kernel.cell("_")) == "model  base + 0.1*math"


def test_a_cell_prints_its_answers_and_returns_the_last(kernel: Kernel) -> None:
    found = kernel.cell("%%taskalg\n:load zoo.ta\n:equal base, base + toxic*0\nbase - toxic")
    lines = kernel.printed.splitlines()
    assert lines[0] == "base, toxic, math, strength and forget loaded (headers only)"
    assert lines[-2:] == ["equal", "Out[2]: model  base - toxic"]
    assert repr(found) == "model  base - toxic"


def test_names_stay_from_cell_to_cell(kernel: Kernel) -> None:
    kernel.cell("%taskalg :load zoo.ta")
    kernel.cell("%%taskalg\nfix = (base\n  - strength*toxic)")
    assert repr(kernel.cell("%taskalg fix")) == "model  base - 0.4*toxic"
    kernel.cell("%taskalg strength = 0.6")
    assert repr(kernel.cell("%taskalg fix")) == "model  base - 0.6*toxic"


def test_recipes_of_python_are_names(kernel: Kernel) -> None:
    kernel.cell("import taskalg as ta\nmine = ta.checkpoint('math.safetensors', name='mine')")
    kernel.cell("mean = mine\nnumber = 3")  # neither a built-in function nor a number is given
    kernel.cell("%taskalg :load base base.safetensors")
    assert repr(kernel.cell("%taskalg mean(base, mine)")) == "model  0.5*base + 0.5*mine"
    assert not kernel.run("%taskalg mean").success  # a function, whatever Python calls so
    kernel.cell("mine = ta.checkpoint('toxic.safetensors', name='other')")
    assert repr(kernel.cell("%taskalg 0.5*base + 0.5*mine")) == "model  0.5*base + 0.5*other"
    kernel.cell("%taskalg mine = 2*base - base")  # what a session binds itself stays
    assert repr(kernel.cell("%taskalg mine")) == "model  base"


def test_a_merge_reports_and_writes(kernel: Kernel, folder: Path) -> None:
    kernel.cell("%taskalg :load zoo.ta")
    report = kernel.cell("%taskalg :merge base - toxic out")
    assert isinstance(report, ta.Report)
    assert (folder / "out" / "model.safetensors").exists()


def test_an_error_is_its_message_with_the_caret_and_fails_the_cell(kernel: Kernel) -> None:
    kernel.cell("%taskalg :load zoo.ta")
    result = kernel.run("%%taskalg\nbase - toxic\nbase + maht\nbase - math")
    assert not result.success  # so that "run all" stops here
    assert isinstance(result.error_in_exec, notebook.ToldError)
    assert isinstance(result.error_in_exec.__cause__, ta.UnknownNameError)
    lines = kernel.printed.splitlines()
    assert lines[0] == "model  base - toxic"
    assert lines[2] == "no checkpoint is named 'maht'"
    assert lines[5].strip() == "|        ^^^^"
    assert "Traceback" not in kernel.printed
    assert "math\n" not in kernel.printed.split("help:")[0]  # nothing after it was answered


def test_one_session_is_all_a_kernel_has(kernel: Kernel) -> None:
    kernel.cell("%taskalg x = 0.5")
    kernel.cell("%load_ext taskalg")  # says that it is loaded, and changes nothing
    assert "already loaded" in kernel.printed
    assert str(kernel.cell("%taskalg x")) == "0.5"


def test_a_figure_is_drawn_inline(kernel: Kernel) -> None:
    figure = new_figure(2, 1)
    data, metadata = kernel.shell.display_formatter.format(figure)
    assert data["image/png"].startswith(b"\x89PNG")
    assert metadata["image/png"] == {"width": 200, "height": 100}


def test_import_loads_no_ipython() -> None:
    program = "import taskalg, sys; print({'IPython', 'matplotlib'} & set(sys.modules))"
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert ran.stdout == "set()\n"


def test_progress_is_one_line_that_goes_away() -> None:
    work = notebook.Work(Progress(1_000_000, 4_000_000, "merging"))
    assert repr(work) == "merging  1.00 MB of 4.00 MB"
    assert '<progress value="1000000" max="4000000">' in work._repr_html_()
    assert (repr(notebook.Work()), notebook.Work()._repr_html_()) == ("", "")


def test_progress_replaces_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    import IPython.display

    seen: list[str] = []

    class Handle:
        def update(self, work: notebook.Work) -> None:
            seen.append(repr(work))

    def display(work: notebook.Work, *, display_id: bool) -> Handle:
        seen.append(repr(work))
        return Handle()

    monkeypatch.setattr(IPython.display, "display", display)
    with notebook._progress() as show:
        show(Progress(1, 2, "merging"))
        show(Progress(2, 2, "merging"))
    assert seen == ["merging  1 B of 2 B", "merging  2 B of 2 B", ""]


# ---- HTML


class Page(HTMLParser):
    """Elements and texts of a page; fails where it is not well-formed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.styles: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._open.append(tag)
        assert {name for name, _ in attrs} <= {"style", "value", "max"}
        self.styles += [value or "" for name, value in attrs if name == "style"]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def page(value: Any) -> Page:
    found = Page(value._repr_html_())
    assert set(found.tags) <= {"div", "b", "code", "pre", "table", "tr", "th", "td"}
    for style in found.styles:  # themes decide about ink; backgrounds let the page through
        assert "url" not in style
        assert " color:" not in f" {style}".replace("background: ", "")
        assert "#" not in style
    return found


def test_a_recipe_is_a_table_of_its_checkpoints(folder: Path) -> None:
    recipe = ta.compile(Path("zoo.ta"))
    texts = page(recipe).texts
    assert (texts[0], texts[2]) == ("model", "base - 0.4*toxic")
    assert [t for t in texts if t in ("1.4", "-0.4", "base.safetensors", "48 B")] == [
        "1.4",
        "48 B",
        "base.safetensors",
        "-0.4",
        "48 B",
    ]


def test_a_recipe_that_cannot_be_opened_shows_why(folder: Path) -> None:
    recipe = ta.compile("a - b", models={"a": "missing.safetensors", "b": None})
    assert "missing.safetensors" in "".join(page(recipe).texts)
    assert page(recipe).tags == ["pre"]
    declared = ta.compile("a - b", models={"a": None, "b": None})
    assert "declared without a file" in page(declared).texts
    assert "scalar" in page(ta.compile("1/3")).texts


def test_a_plan_and_a_report_are_tables(folder: Path) -> None:
    recipe = ta.compile(Path("zoo.ta"))
    plan = page(recipe.explain("out")).texts
    for words in ("coefficient", "1.4", "rounding", "3 tensors, f32 like base, 48 B in 1 shard"):
        assert words in plan
    report = page(recipe.save("out")).texts
    assert {"out", "3 in 1 shard, 48 B"} <= set(report)
    varied = ta.compile(
        "base + ramp(0, 1)*(a - base)", base="base.safetensors", models={"a": "math.safetensors"}
    )
    assert "coefficients vary with the tensor" in "".join(page(varied.explain()).texts)


def test_a_sweep_is_a_table_whose_chosen_row_has_a_tint() -> None:
    points = tuple(Point({"λ": Fraction(i, 2)}, {"acc": math.nan if i else 0.5}) for i in range(3))
    sweep = Sweep(("λ",), points, {"acc": 0.4}, points[0], None, "acc", None, ())
    found = page(sweep)
    assert found.tags.count("tr") == 5
    assert sum(markup.CHOSEN in style for style in found.styles) == 3
    assert "chosen: λ = 0, the largest acc" in found.texts


def test_a_geometry_is_tables_with_tints(folder: Path) -> None:
    base = ta.checkpoint("base.safetensors", name="base")
    toxic = ta.task("toxic.safetensors", base, name="toxic")
    vectors = {"toxic": toxic, "back": -1 * toxic, "<b>": base - base["*layers*"]}
    found = page(geometry(vectors, cache=False))
    texts = found.texts
    assert texts[texts.index("norm") + 1] == texts[texts.index("norm") + 2] == "5.477"
    assert texts.count("1.0000") == 3
    assert texts.count("-1.0000") == 2
    assert "3 tensors, 12 elements" in texts
    assert texts.count("<b>") == 5
    for share in (1, -1):
        assert sum(markup.tint(share) in style for style in found.styles) >= 2


def hostile_recipe(folder: Path) -> ta.Recipe:
    path = folder / "<img src=x onerror=alert(1)>.safetensors"
    save_file({"head.w": np.ones(4, np.float32), "<script>": np.ones(2, np.float32)}, path)
    return ta.compile("0.5*a + 0.5*b", models={"a": path, "b": folder / "base.safetensors"})


def test_hostile_names_are_text(folder: Path) -> None:
    recipe = hostile_recipe(folder)
    for value in (recipe, recipe.explain(donor="b", only_shared=True)):
        found = page(value)
        assert "<img src=x onerror=alert(1)>.safetensors" in "".join(found.texts)
    point = Point({HOSTILE: Fraction(1)}, {HOSTILE: 1.0})
    sweep = Sweep((HOSTILE,), (point,), {}, point, None, HOSTILE, None, (HOSTILE,))
    assert "".join(page(sweep).texts).count("<script>") == 5


def test_texts_are_escaped_and_safe() -> None:
    assert markup.text(HOSTILE) == "&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;&amp;\\x1b[31m"
    for made in (
        markup.paragraph(HOSTILE, HOSTILE),
        markup.message(f"{HOSTILE}\n{HOSTILE}"),
        markup.table([HOSTILE], [[markup.Cell(HOSTILE)]]),
        markup.pairs([(HOSTILE, HOSTILE)]),
    ):
        assert "script" not in Page(made).tags
        assert "".join(Page(made).texts).count("<script>") == 2


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (1.0, "rgba(178, 24, 43, 0.60)"),
        (-0.5, "rgba(33, 102, 172, 0.30)"),
        (0.0, "rgba(33, 102, 172, 0.00)"),
        (math.nan, "rgba(128, 128, 128, 0.3)"),
    ],
)
def test_tints_are_the_pictures_colors(share: float, expected: str) -> None:
    assert markup.tint(share) == expected
