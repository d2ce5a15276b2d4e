"""What is published beside a model: that it says enough, and that it says no local path."""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

import taskalg
from taskalg import Recipe, TaskalgError
from taskalg.errors import Source
from taskalg.output.card import card, stated_license
from taskalg.output.manifest import Decisions, Input, Manifest, read_manifest
from taskalg.output.public import is_origin, public_path, public_text
from taskalg.output.sidefiles import SideFile
from taskalg.planning.plan import Choices
from tests import oracle
from tests.faults import Faults, inject
from tests.oracle import Tensor
from tests.strategies import examples

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SECRETS = ("alice-home", "client-acme", "merger-2027")  # parts of paths that must not be told
CARD_OF_AN_INPUT = "---\nlicense: apache-2.0\n---\n"


def tensors(first: int) -> dict[str, Tensor]:
    numbers = bytes(range(first, first + 24))
    return {
        "layers.0.w": Tensor("F32", (3, 2), numbers),
        "layers.1.w": Tensor("BF16", (6,), numbers[:12]),
        "head.w": Tensor("F16", (2,), numbers[:4]),
        "ids": Tensor("I64", (2,), bytes(range(16))),
    }


def model(folder: Path, first: int, shards: int = 1, readme: str = CARD_OF_AN_INPUT) -> Path:
    """Write a model folder as they are downloaded: weights, a config, a card."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    found = list(tensors(first).items())
    oracle.write_folder(folder, [dict(found[i::shards]) for i in range(shards)])
    config = {"model_type": "tiny", "torch_dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "README.md").write_text(readme, encoding="utf-8")
    return folder


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    """Make models in a folder whose path is nobody's business."""
    folder = tmp_path.joinpath(*SECRETS)
    for index, name in enumerate(("base", "toxic", "math")):
        model(folder / name, 1 + 40 * index, shards=1 + (name == "toxic"))
    return folder


def generated(out: Path) -> dict[str, str]:
    names = ("taskalg.json", "README.md")
    return {name: (out / name).read_text("utf-8") for name in names if (out / name).exists()}


def manifest(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "taskalg.json").read_bytes())
    return found


def front_matter(out: Path) -> dict[str, Any]:
    _, text, _ = (out / "README.md").read_text("utf-8").split("---\n", 2)
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def bound(zoo: Path, text: str, **options: Any) -> Recipe:
    others = {name: zoo / name for name in ("toxic", "math") if name in text}
    return taskalg.compile(text, base=zoo / "base", tasks=others, **options)


# ---- What it says


def test_the_manifest_says_what_was_read_and_decided(zoo: Path) -> None:
    made = bound(zoo, "base - s*toxic/2 + math/3", set={"s": 0.4})
    made.save(zoo / "out", dtype="bf16", shard_size="30B")
    found = manifest(zoo / "out")
    assert (found["schema"], found["version"]) == (1, taskalg.__version__)
    assert (found["kind"], found["expression"]) == ("model", "base - s*toxic/2 + math/3")
    assert (found["recipe"], found["set"]) == (None, {"s": "0.4"})
    assert found["simplified"] == "base + 1/3*math - 0.2*toxic"
    assert found["files"] == "13/15*base + 1/3*math - 0.2*toxic"
    assert found["coefficients"] == {"base": "13/15", "math": "1/3", "toxic": "-1/5"}
    assert found["decisions"] == {
        "donor": "base",
        "dtype": "bf16",
        "shard_size": 30,
        "on_overflow": "error",
        "allow_partial": False,
        "only_shared": False,
        "rows": "all",
    }
    assert [(one["name"], one["sort"], one["path"]) for one in found["inputs"]] == [
        ("base", "base", "base"),
        ("math", "task", "math"),
        ("toxic", "task", "toxic"),
    ]


def test_files_are_told_by_size_header_and_with_hash_by_all_their_bytes(zoo: Path) -> None:
    made = bound(zoo, "base - toxic/2")
    made.save(zoo / "out", shard_size="30B")
    made.save(zoo / "hashed", shard_size="30B", hash=True)
    for out in ("out", "hashed"):
        found = manifest(zoo / out)
        stored = [(zoo / out, one) for one in found["outputs"]]
        stored += [(zoo / i["name"], file) for i in found["inputs"] for file in i["files"]]
        assert len(found["outputs"]) == 3
        assert len(stored) == 6
        for folder, file in stored:
            content = (folder / file["name"]).read_bytes()
            header = content[8 : 8 + int.from_bytes(content[:8], "little")]
            whole = hashlib.sha256(content).hexdigest() if out == "hashed" else None
            assert file["size"] == len(content)
            assert file["header_sha256"] == hashlib.sha256(header).hexdigest()
            assert file["sha256"] == whole


def test_every_choice_is_in_the_manifest() -> None:
    chosen = {field.name for field in dataclasses.fields(Choices)} - {"outputs"}
    # outputs are the dtypes of a model in memory, which has no manifest
    assert chosen <= {field.name for field in dataclasses.fields(Decisions)}


def test_coefficients_that_vary_are_given_by_class(zoo: Path) -> None:
    bound(zoo, 'base + toxic["*.w"][0]').save(zoo / "out")
    found = manifest(zoo / "out")
    assert found["files"] == 'base - base["*.w"][0] + toxic["*.w"][0]'
    rows = [(row["tensors"], row["coefficients"]) for row in found["coefficients"]]
    assert sorted(rows, key=str) == [(1, {"toxic": "1/1"}), (3, {"base": "1/1"})]
    assert "varies with the tensor" in (zoo / "out/README.md").read_text("utf-8")


def test_what_cancels_is_named_and_is_no_input(zoo: Path) -> None:
    bound(zoo, "base + toxic + 0*math").save(zoo / "out")
    found = manifest(zoo / "out")
    assert (found["simplified"], found["files"]) == ("base + toxic", "toxic")
    assert found["cancelled"] == ["base", "math"]
    assert [one["name"] for one in found["inputs"]] == ["toxic"]


def test_a_donor_that_cancels_is_an_input(zoo: Path) -> None:
    bound(zoo, "base + toxic").save(zoo / "out", donor="base")
    found = manifest(zoo / "out")
    assert [one["name"] for one in found["inputs"]] == ["base", "toxic"]
    assert (found["decisions"]["donor"], found["files"]) == ("base", "toxic")


def test_checkpoints_without_a_name_get_one(zoo: Path) -> None:
    shutil.copytree(zoo / "math", zoo / "other" / "math")
    text = f'base/2 + checkpoint("{zoo}/math")/4 + checkpoint("{zoo}/other/math")/4'
    taskalg.compile(text, base=zoo / "base").save(zoo / "out")
    found = manifest(zoo / "out")
    assert found["files"] == "0.5*base + 0.25*math + 0.25*math_2"
    assert found["expression"] == 'base/2 + checkpoint("math")/4 + checkpoint("math")/4'


def test_a_task_vector_has_a_manifest_and_no_card(zoo: Path) -> None:
    bound(zoo, "toxic").save(zoo / "out")
    assert list(generated(zoo / "out")) == ["taskalg.json"]
    assert manifest(zoo / "out")["kind"] == "task vector"


def test_one_file_has_nothing_beside_it(zoo: Path) -> None:
    bound(zoo, "base - toxic").save(zoo / "alone" / "x.safetensors", hash=True)
    assert [path.name for path in (zoo / "alone").iterdir()] == ["x.safetensors"]


# ---- No machine, no time, no thread


def test_the_same_merge_elsewhere_writes_the_same_bytes(zoo: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(zoo, copy)
    for folder, threads, engine in ((zoo, 1, "cpu"), (copy, 3, "reference")):
        made = bound(folder, "base - toxic/3 + math[0]")
        made.save(folder / "out", threads=threads, engine=engine, hash=True)
    assert generated(zoo / "out") == generated(copy / "out")
    assert read_manifest(zoo / "out").to_bytes() == (zoo / "out/taskalg.json").read_bytes()


# ---- All of it or nothing


def test_whatever_call_fails_the_manifest_is_there_only_with_its_model(
    zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = bound(zoo, "base - toxic/2")
    counted, failed = Faults(), 0
    with monkeypatch.context() as context:
        inject(context, counted)
        made.save(tmp_path / "expected", threads=1, hash=True)
    for at in range(1, len(counted.calls) + 1):
        out = tmp_path / f"out {at}"
        with monkeypatch.context() as context:
            inject(context, Faults(at))
            try:
                made.save(out, threads=1, hash=True)
            except TaskalgError as error:
                assert error.exit_code in (4, 5)
                failed += 1
        is_there = (out / "model.safetensors").exists()
        assert generated(out) == (generated(tmp_path / "expected") if is_there else {})
        shutil.rmtree(out, ignore_errors=True)
    assert failed > 60


# ---- No local path leaves the machine


def by_path(zoo: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    return bound(zoo, "base - 0.5*toxic")


def by_recipe(zoo: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    text = f"""# made for {zoo}
        base = checkpoint('{zoo}/base')  # in {zoo.parent}/base
        toxic = task("{zoo}/../{zoo.name}/toxic")
        base - 0.5*toxic"""
    (zoo / "r.ta").write_text(text.replace("        ", ""), encoding="utf-8")
    return taskalg.compile(zoo / "r.ta")


def by_used_file(zoo: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    (zoo / "zoo.ta").write_text('base = checkpoint("base")\ntoxic = task("toxic")\n', "utf-8")
    (zoo / "r.ta").write_text(f'use "{zoo}/zoo.ta"\nbase - 0.5*toxic\n', encoding="utf-8")
    return taskalg.compile(zoo / "r.ta")


def by_home(zoo: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    monkeypatch.setenv("HOME", str(zoo.parents[1]))
    text = f'base - 0.5*task("~/{"/".join(SECRETS[1:])}/toxic", base)'
    return taskalg.compile(text, base=f"~/{'/'.join(SECRETS[1:])}/base")


def by_relative_path(zoo: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    monkeypatch.chdir(zoo.parents[1])
    near = "/".join(SECRETS[1:])
    text = f'0.5*checkpoint("{near}/base") + 0.5*checkpoint("./{near}/math/../toxic")'
    return taskalg.compile(text)


def by_the_folder_itself(zoo: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    monkeypatch.chdir(zoo / "base")
    return taskalg.compile("base/2 + toxic/2", base=".", models={"toxic": "../toxic/"})


def by_python(zoo: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    base = taskalg.checkpoint(zoo / "base")
    return base - taskalg.task(str(zoo / "toxic"), base) / 2


def by_file(zoo: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    tasks = {"toxic": zoo / "math" / "model.safetensors"}
    return taskalg.compile("base + toxic/2", base=zoo / "base", tasks=tasks)


def by_state_dict(zoo: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    from safetensors.torch import load_file

    held = load_file(zoo / "math" / "model.safetensors")
    return taskalg.compile("base/2 + held/2", base=zoo / "base", models={"held": held})


WAYS: tuple[Callable[[Path, pytest.MonkeyPatch], Recipe], ...] = (
    *(by_path, by_recipe, by_used_file, by_home, by_relative_path),
    *(by_the_folder_itself, by_python, by_file, by_state_dict),
)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_nothing_published_holds_a_part_of_a_path_but_the_last(
    zoo: Path, monkeypatch: pytest.MonkeyPatch, way: Callable[[Path, pytest.MonkeyPatch], Recipe]
) -> None:
    way(zoo, monkeypatch).save(zoo / "out", hash=True)
    found = generated(zoo / "out")
    assert set(found) == {"taskalg.json", "README.md"}
    for text in found.values():
        for part in (*zoo.parts[1:], *SECRETS):
            assert part not in text or part in ("tmp", "var"), part
        assert "base" in text


def test_the_law_on_paths_can_fail(zoo: Path) -> None:
    told = str(bound(zoo, "base - 0.5*toxic").explain())
    assert all(secret in told for secret in SECRETS)


def test_a_folder_in_the_hub_cache_is_what_it_is_a_copy_of(tmp_path: Path) -> None:
    cache = tmp_path.joinpath(*SECRETS, "hub")
    first = model(cache / "models--org--small-base" / "snapshots" / COMMIT, 1)
    second = model(cache / "models--gpt2" / "snapshots" / COMMIT, 41)
    text = f'0.5*checkpoint("{first}") + 0.5*checkpoint("{second}/model.safetensors")'
    taskalg.compile(text).save(tmp_path / "out")
    found = manifest(tmp_path / "out")
    origins = {one["name"]: one["origin"] for one in found["inputs"]}
    assert origins == {
        "small_base": f"org/small-base@{COMMIT}",
        "gpt2": f"gpt2@{COMMIT}/model.safetensors",
    }
    assert found["expression"] == (
        f'0.5*checkpoint("org/small-base@{COMMIT}") + 0.5*checkpoint("gpt2@{COMMIT}")'
    )
    assert front_matter(tmp_path / "out")["base_model"] == ["gpt2", "org/small-base"]
    texts = "".join(generated(tmp_path / "out").values())
    assert all(secret not in texts for secret in SECRETS)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/home/me/gpt2-large", "gpt2-large"),
        ("/home/me/gpt2-large/", "gpt2-large"),
        ("~/gpt2.safetensors", "gpt2.safetensors"),
        ("a/b/../c", "c"),
        (r"C:\Users\me\models\base", "base"),
        (r"\\server\share\base", "base"),
        ("/", "checkpoint"),
        ("bad\x1bname", r"bad\x1bname"),
        ("org/name", "name"),  # not known to be the Hub's
        (f"/c/models--org--name/snapshots/{COMMIT}", f"org/name@{COMMIT}"),
        ("/c/models--org--name/snapshots/main", "main"),
    ],
)
def test_what_is_said_of_a_path(path: str, said: str) -> None:
    assert public_path(path) == said


@pytest.mark.parametrize(
    ("text", "good"),
    [
        (f"org/name@{COMMIT}", True),
        (f"gpt2@{COMMIT}", True),
        (f"org/name@{COMMIT}/unet", True),
        ("org/name", False),
        ("/org/name@abc", False),
        ("org/name@abc/../x", False),
        ("a/b/c@abc", False),
        ("org/na\nme@abc", False),
        ("org/name@abc\n", False),
        ("../name@abc", False),
    ],
)
def test_what_is_an_origin(text: str, good: bool) -> None:
    assert is_origin(text) is good


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a = checkpoint('/x/y/z')\na", "a = checkpoint('z')\na"),
        ("# in /home/me\na", "\na"),
        ("a # see https://arxiv.org/abs/2212.04089", "a # see https://arxiv.org/abs/2212.04089"),
        ("a # from C:\\me", "a"),
        ("a # less, better", "a # less, better"),
        ('use "../x/zoo.ta"\na', 'use "zoo.ta"\na'),
        ('a["unet/*", ~"b/c"]', 'a["unet/*", ~"b/c"]'),
        ("task(\"x/y\", checkpoint('~/b'))", "task(\"y\", checkpoint('b'))"),
        ('checkpoint("org/m")', 'checkpoint("org/m@1")'),
    ],
)
def test_a_recipe_is_repeated_but_for_its_paths(text: str, said: str) -> None:
    assert public_text(Source("r.ta", text), {"org/m": "org/m@1"}) == said


# ---- The card


def test_the_card_tells_the_hub_what_it_wants_to_know(zoo: Path) -> None:
    bound(zoo, "base - toxic/2").save(zoo / "out")
    assert front_matter(zoo / "out") == {
        "base_model_relation": "merge",
        "library_name": "transformers",
        "license": "apache-2.0",
        "tags": ["merge", "task-arithmetic", "taskalg"],
    }


def made_manifest(**changes: Any) -> Manifest:
    one = Input("base", "base", "base", None, None, None, None, ())
    decisions = Decisions("base", None, 1, "error", False, False, "all")
    found = Manifest(
        version="1",
        kind="model",
        recipe=None,
        expression=None,
        set={},
        simplified="base",
        files="base",
        coefficients={"base": "1/1"},
        cancelled=(),
        inputs=(one,),
        decisions=decisions,
        tensors=1,
        outputs=(),
    )
    return dataclasses.replace(found, **changes)


def card_of(tmp_path: Path, found: Manifest, *sides: SideFile) -> dict[str, Any]:
    (tmp_path / "README.md").write_bytes(card(found, sides).content)
    return front_matter(tmp_path)


def inputs_with(**changes: list[Any]) -> tuple[Input, ...]:
    (one,) = made_manifest().inputs
    rows = zip(*changes.values(), strict=True)
    return tuple(
        dataclasses.replace(one, name=f"m{n}", **dict(zip(changes, row, strict=True)))
        for n, row in enumerate(rows)
    )


@pytest.mark.parametrize(
    ("licenses", "stated"),
    [
        (["mit", "mit"], "mit"),
        (["mit", None], None),
        (["mit", "apache-2.0"], None),
        ([None, None], None),
        (["no", "no"], "no"),  # a word that YAML takes for a truth value
        (["1.0", "1.0"], "1.0"),
    ],
)
def test_a_license_is_stated_only_if_all_inputs_state_it(
    tmp_path: Path, licenses: list[str | None], stated: str | None
) -> None:
    found = made_manifest(inputs=inputs_with(license=licenses))
    assert card_of(tmp_path, found).get("license") == stated


@pytest.mark.parametrize(
    ("text", "stated"),
    [
        ("---\nlicense: mit\n---\n", "mit"),
        ("---\nlicense:   'apache-2.0'  \nx: 1\n---\n", "apache-2.0"),
        ('---\nlicense: "llama3.1"\n---\n', "llama3.1"),
        ("license: mit\n", None),
        ("---\nlicense: mit\n", None),
        ("---\nlicense: other\nlicense_name: x\n---\n", None),
        ("---\nlicense:\n- mit\n---\n", None),
        ("---\nlicense: mit\nlicense: gpl\n---\n", None),
        ("---\nlicense: 'mit\n---\n", None),
        ("---\nlicense: mit: x\n---\n", None),
        ("---\nx: |\n  license: mit\n---\n", None),
        ("---\n---\nlicense: mit\n", None),
        ("", None),
        ("---\nlicense: " + "m" * 2_000_000 + "\n---\n", None),
        (b"---\nlicense: mit\n---\n\xff", None),
    ],
)
def test_a_license_is_read_only_where_it_is_plain(
    tmp_path: Path, text: str | bytes, stated: str | None
) -> None:
    content = text if isinstance(text, bytes) else text.encode()
    (tmp_path / "README.md").write_bytes(content)
    assert stated_license(tmp_path) == stated


def test_without_a_card_there_is_no_license(tmp_path: Path) -> None:
    assert stated_license(tmp_path) is None
    assert stated_license(None) is None
    (tmp_path / "README.md").mkdir()
    with pytest.raises(taskalg.CheckpointError, match="is a folder"):
        stated_license(tmp_path)


@pytest.mark.parametrize(
    ("names", "library"),
    [
        (["config.json"], "transformers"),
        (["config.json", "modules.json"], "sentence-transformers"),
        (["model_index.json"], "diffusers"),
        ([], None),
    ],
)
def test_the_library_is_told_from_the_side_files(
    tmp_path: Path, names: list[str], library: str | None
) -> None:
    sides = [SideFile(name, b'{"model_type": "x"}') for name in names]
    assert card_of(tmp_path, made_manifest(), *sides).get("library_name") == library


def test_one_hub_model_is_a_value_several_are_a_list(tmp_path: Path) -> None:
    origins = [f"org/a@{COMMIT}", f"org/a@{COMMIT}/x", f"123@{COMMIT}"]
    one, several = (inputs_with(origin=origins[:n]) for n in (1, 3))
    assert card_of(tmp_path, made_manifest(inputs=one))["base_model"] == "org/a"
    assert card_of(tmp_path, made_manifest(inputs=several))["base_model"] == ["org/a", "123"]


HOSTILE = st.text(
    st.sampled_from(list("`|\\\n\r\t-#*_<>[]()!&;:~'\"{}\x00\x1b\u202e\u2028 ab\ud800"))
) | st.sampled_from(
    [
        "```\n# heading\n---\nlicense: evil\n---\n",
        "`x` <script>alert(1)</script>",
        "a | b |\n| - | - |",
        "![x](http://example.org/x.png)",
        "base\n\n# heading",
        "~~~\n</code></pre><b>",
        "--- \n",
    ]
)


@examples(200)
@given(HOSTILE, HOSTILE, HOSTILE)
def test_nothing_in_a_manifest_can_leave_its_place_in_the_card(a: str, b: str, c: str) -> None:
    inputs = inputs_with(path=[a, b], license=["mit", "mit"])
    found = made_manifest(
        inputs=(dataclasses.replace(inputs[0], name=c), inputs[1]),
        recipe=a,
        expression=b,
        simplified=c,
        version=b,
        set={a: c},
        coefficients={c: a},
        decisions=Decisions(a, b, 1, "error", False, False, "all"),
    )
    text = card(found, ()).content.decode("utf-8")
    _, front, body = text.split("---\n", 2)
    assert set(yaml.safe_load(front)) == {"base_model_relation", "license", "tags"}
    tokens = list(flat(MarkdownIt("commonmark", {"html": True}).enable("table").parse(body)))
    assert {token.type for token in tokens} <= PLAIN
    headings = [tokens[i + 1].content for i, t in enumerate(tokens) if t.type == "heading_open"]
    assert headings == [
        "A weighted sum of checkpoints",
        "Checkpoints",
        "How each number was computed",
        "How to repeat it",
    ]
    assert sum(token.type == "tr_open" for token in tokens) == 3


PLAIN = {
    *("inline", "text", "code_inline", "fence", "softbreak", "text_special"),
    *(f"{name}_{end}" for name in ("heading", "paragraph") for end in ("open", "close")),
    *(f"{n}_{e}" for n in ("table", "thead", "tbody", "tr", "th", "td") for e in ("open", "close")),
}


def flat(tokens: Any) -> Iterator[Any]:
    for token in tokens:
        yield token
        yield from flat(token.children or ())
