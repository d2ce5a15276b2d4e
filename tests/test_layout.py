"""The house rules that are cheap to check, each guard with a test that it can fail."""

import ast
import io
import os
import subprocess
import sys
import textwrap
import tokenize
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests import oracle

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "taskalg"
FILES = sorted(PACKAGE.rglob("*.py"))

# What may import what: a file imports only rows above its own, or files of its own folder. The
# engines stand beside the language and the files: they see neither.
FLOORS = (
    ("errors", "version"),
    ("dtypes", "help_pages", "machine", "markup", "system", "units"),
    ("blame",),
    ("engines", "files", "language"),
    ("algebra", "checkpoints", "handles"),
    ("output", "scalars", "selection"),
    ("arithmetic", "compiler", "planning"),
    ("expression",),
    ("arguments", "binding", "coefficients", "planned", "recipe_html", "recipe_text", "remarks"),
    ("running",),
    ("measuring",),
    ("adapters", "console", "explain"),
    ("memory",),
    ("recipe",),
    ("api", "repeating"),
    ("sweeping",),
    ("listing", "pictures", "pretrained"),
    ("names",),
    ("workbench",),
    ("demo", "__init__"),
    ("cli",),
    ("__main__",),
)
FLOOR_OF = {place: index for index, row in enumerate(FLOORS) for place in row}

MOST_LINES = 300
MOST_BODY_LINES = 40
MOST_TOKENS = 9  # per line, docstrings' lines included; a pair of brackets is one, a comma none
MOST_WIDTH = 100
MOST_PARAMETERS = 8
EXEMPT = {
    "Recipe.save",  # its keywords are the command line's options, one for one
    "InMemory.tensors",  # likewise
    "InMemory.state_dict",
    "InMemory.live",
    "sweep",
    "fused",  # a compiled kernel: numba takes no keywords, and a tuple of arrays is no clearer
    "weighted_sums",  # Triton's likewise, where constants are arguments, too
    "_fast",
    "_slow",
}
NAMES_ARE_KEYWORDS = {  # of a recipe, whatever they are
    "Functional.__call__",
    "Functional.recipe",
    "Functional.text",
    "Live.set",
    "Recipe.bind",
}


def module_name(path: Path, package: Path = PACKAGE) -> str:
    return ".".join(path.relative_to(package).with_suffix("").parts)


def imported(source: str) -> set[str]:
    """Return the modules of the package that a file imports, at its top or further down."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "taskalg":
            base = (node.module or "").removeprefix("taskalg").lstrip(".")
            for alias in node.names:
                whole = f"{base}.{alias.name}".lstrip(".")
                is_module = (PACKAGE / f"{whole.replace('.', '/')}.py").is_file()
                found.add(whole if is_module else base or "__init__")
        if isinstance(node, ast.Import):
            names = (alias.name for alias in node.names)
            found |= {
                name.removeprefix("taskalg").lstrip(".") or "__init__"
                for name in names
                if name.split(".")[0] == "taskalg"
            }
    return found


def too_high(module: str, sources: set[str]) -> list[str]:
    """Return what a module imports and must not."""
    mine = module.split(".")[0]
    wrong = []
    for source in sorted(sources):
        other = source.split(".")[0]
        same_folder = other == mine and "." in module
        if not same_folder and FLOOR_OF[other] >= FLOOR_OF[mine]:
            wrong.append(source)
    return wrong


def cycles(graph: Mapping[str, set[str]]) -> list[str]:
    """Return the modules that can reach themselves."""
    found = []
    for start in graph:
        seen: set[str] = set()
        waiting = list(graph[start])
        while waiting:
            module = waiting.pop()
            if module not in seen:
                seen.add(module)
                waiting += graph.get(module, ())
        if start in seen:
            found.append(start)
    return found


def test_every_file_stands_on_a_floor() -> None:
    assert {module_name(path).split(".")[0] for path in FILES} <= set(FLOOR_OF)
    assert sum(map(len, FLOORS)) == len(FLOOR_OF)


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_a_file_imports_only_lower_floors_and_its_own_folder(path: Path) -> None:
    assert too_high(module_name(path), imported(path.read_text("utf-8"))) == []


def test_no_file_can_reach_itself() -> None:
    assert cycles({module_name(p): imported(p.read_text("utf-8")) for p in FILES}) == []


def test_the_guards_on_imports_can_fail() -> None:
    assert imported("def f():\n    from taskalg.planning.plan import Plan\n") == {"planning.plan"}
    assert imported("from taskalg.language import nodes") == {"language.nodes"}
    assert imported("from taskalg import compile") == {"__init__"}
    assert imported("import taskalg.planning.plan, taskalg") == {"planning.plan", "__init__"}
    assert too_high("engines.cpu", {"errors", "engines.base", "files"}) == ["files"]
    assert too_high("scalars", {"planning.plan"}) == ["planning.plan"]
    assert too_high("errors", {"errors", "__init__"}) == ["__init__", "errors"]
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == ["a", "b", "c"]


# ---- Budgets


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def tokens_per_line(source: str) -> float:
    """Count tokens over the lines they stand on; brackets count once, commas not at all."""
    count, lines = 0, set()
    layout = (tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in (*layout, tokenize.COMMENT, tokenize.ENDMARKER):
            continue
        lines |= set(range(token.start[0], token.end[0] + 1))
        count += token.string not in (")", "]", "}", ",")
    return count / max(1, len(lines))


def functions(tree: ast.Module) -> Iterator[tuple[str, ast.FunctionDef]]:
    """Yield every function with its name, methods with their class's."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            yield from (
                (f"{node.name}.{f.name}", f) for f in node.body if isinstance(f, ast.FunctionDef)
            )
    methods = {id(f) for n in ast.walk(tree) if isinstance(n, ast.ClassDef) for f in n.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and id(node) not in methods:
            yield node.name, node


def body_lines(function: ast.FunctionDef) -> int:
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def parameters(function: ast.FunctionDef) -> list[str]:
    arguments = function.args
    names = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return [name for name in names if name not in ("self", "cls")]


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_a_file_is_short_narrow_and_not_dense(path: Path) -> None:
    source = path.read_text("utf-8")
    lines = source.splitlines()
    assert len(lines) <= MOST_LINES
    assert max(map(len, lines), default=0) <= MOST_WIDTH
    assert tokens_per_line(source) <= MOST_TOKENS


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_functions_are_short_and_take_few_parameters(path: Path) -> None:
    for name, function in functions(parsed(path)):
        assert body_lines(function) <= MOST_BODY_LINES, name
        assert len(parameters(function)) <= MOST_PARAMETERS or name in EXEMPT, name
        if not name.split(".")[-1].startswith("_") and name not in EXEMPT:
            defaults = len(function.args.defaults)
            positional = [a for a in function.args.args if a.arg not in ("self", "cls")]
            assert defaults == 0 or len(positional) <= 4, f"{name}: options are keyword-only"


def test_the_median_function_is_small() -> None:
    sizes = sorted(body_lines(f) for path in FILES for _, f in functions(parsed(path)))
    assert sizes[len(sizes) // 2] <= 8


def test_the_guards_on_budgets_can_fail() -> None:
    assert tokens_per_line("x = (a, b)\n\n# c\n") == 5
    assert tokens_per_line('"""Two\nlines."""\n') == 0.5
    tree = ast.parse("class A:\n    def m(self, *, a, b):\n        'doc'\n        a\n\n        b\n")
    ((name, method),) = functions(tree)
    assert (name, body_lines(method), parameters(method)) == ("A.m", 3, ["a", "b"])
    assert [name for name, _ in functions(ast.parse("def f():\n  def g(): ...\n"))] == ["f", "g"]


# ---- Words


def is_public(name: str) -> bool:
    return not any(part.startswith("_") for part in name.split("."))


def undocumented(tree: ast.Module) -> list[str]:
    """Return public classes, functions and methods without a docstring or a return type."""
    missing = []
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and is_public(node.name):
            members = [node, *(node.body if isinstance(node, ast.ClassDef) else ())]
            for member in members:
                if isinstance(member, ast.ClassDef | ast.FunctionDef) and is_public(member.name):
                    typed = isinstance(member, ast.ClassDef) or member.returns is not None
                    if not (ast.get_docstring(member) and typed):
                        missing.append(member.name)
    return missing


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_public_names_have_docstrings_and_return_types(path: Path) -> None:
    assert undocumented(parsed(path)) == []
    assert ast.get_docstring(parsed(path))


@pytest.mark.parametrize("folder", sorted(p.parent for p in FILES if p.name == "__init__.py"))
def test_a_folder_s_init_is_its_docstring_only(folder: Path) -> None:
    body = parsed(folder / "__init__.py").body
    if folder == PACKAGE:
        assert all(isinstance(node, ast.Expr | ast.ImportFrom | ast.Assign) for node in body)
    else:
        assert [type(node) for node in body] == [ast.Expr]


# What a run fills in as it goes; everything else is a value.
MUTABLE = {"Environment", "Block", "Piece"}


def dataclasses_of(tree: ast.Module) -> Iterator[tuple[str, bool]]:
    """Yield every public dataclass, and whether it is frozen."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and is_public(node.name):
            decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
            if any(text.startswith("dataclass") for text in decorators):
                yield node.name, any("frozen=True" in text for text in decorators)


def test_every_product_of_a_stage_is_frozen() -> None:
    found = dict(pair for path in FILES for pair in dataclasses_of(parsed(path)))
    assert {name for name, frozen in found.items() if not frozen} == MUTABLE
    assert len(found) > 40


def test_there_are_no_keyword_dicts_no_prints_and_no_exits_outside_the_command_line() -> None:
    for path in FILES:
        if module_name(path).partition(".")[0] in ("cli", "__main__", "console", "demo", "names"):
            continue
        assert bad_manners(parsed(path)) == [], module_name(path)


def bad_manners(tree: ast.Module) -> list[str]:
    found = []
    for name, function in functions(tree):
        if function.args.kwarg is not None and name not in NAMES_ARE_KEYWORDS:
            found.append(f"**{function.args.kwarg.arg}")
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "exit", "sys.exit"):
            found.append(ast.unparse(node.func))
        if isinstance(node, ast.Global):
            found.append("global")
    return found


def test_the_guards_on_words_can_fail() -> None:
    source = "class A:\n  '''Doc.'''\n  def m(self): 'Doc.'\ndef f() -> int: ...\ndef _g(): ...\n"
    assert undocumented(ast.parse(source)) == ["m", "f"]
    assert bad_manners(ast.parse("def f(**k): print(1)\n")) == ["**k", "print"]
    assert bad_manners(ast.parse("class Recipe:\n def bind(self, **k): ...\n")) == []
    classes = "@dataclass(frozen=True)\nclass A: ...\n@dataclass\nclass B: ...\n"
    assert dict(dataclasses_of(ast.parse(classes))) == {"A": True, "B": False}


# ---- What is loaded

LIGHT = "import taskalg"
EXPLAIN = """
    import taskalg
    recipe = taskalg.compile("base + 0.4*(ft - base)", models={"base": "b.safetensors",
                                                               "ft": "f.safetensors"})
    str(recipe.explain("out.safetensors"))
    assert recipe.kind == "model"
"""
MERGE = """
    import taskalg
    recipe = taskalg.compile("base + 0.4*(ft - base)", models={"base": "b.safetensors",
                                                               "ft": "f.safetensors"})
    recipe.save("out.safetensors", engine="cpu")
"""
HELP = """
    import sys
    from taskalg.cli.main import main
    sys.argv = ["taskalg", "--help"]
    try:
        main()
    except SystemExit as done:
        assert not done.code
"""
HEAVY = (
    "torch",
    "triton",
    "transformers",
    "sklearn",
    "huggingface_hub",
    "matplotlib",
    "IPython",
    "prompt_toolkit",
)


def loaded(folder: Path, program: str) -> set[str]:
    """Run a program in a fresh interpreter and return the top-level packages it loaded."""
    ending = "\nimport sys\nsys.stderr.write('\\n'.join({m.split('.')[0] for m in sys.modules}))"
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program) + ending],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return set(ran.stderr.split())


@pytest.fixture
def two_files(tmp_path: Path) -> Path:
    for name in ("b", "f"):
        tensor = oracle.Tensor("BF16", (2,), b"\x80\x3f\x80\x3f")
        oracle.write_file(tmp_path / f"{name}.safetensors", {"w": tensor}, {})
    return tmp_path


@pytest.mark.parametrize(
    "program", [LIGHT, EXPLAIN, MERGE, HELP], ids=["import", "explain", "merge", "help"]
)
def test_nothing_heavy_is_loaded(two_files: Path, program: str) -> None:
    found = loaded(two_files, program)
    assert found.isdisjoint(HEAVY)
    assert "taskalg" in found
    if program is not MERGE:
        assert "numba" not in found


def test_the_guard_on_what_is_loaded_can_fail(tmp_path: Path) -> None:
    assert {"numba", "numpy"} <= loaded(tmp_path, "import numba")


# ---- The oracle


def test_the_oracle_imports_none_of_what_it_checks() -> None:
    allowed = {"language.nodes"}
    assert imported((ROOT / "tests/oracle.py").read_text("utf-8")) == allowed


def test_strategies_import_nothing_but_nodes_and_spans() -> None:
    found = imported((ROOT / "tests/strategies.py").read_text("utf-8"))
    assert found == {"errors", "language.nodes"}
