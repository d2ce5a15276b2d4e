"""Going back to a manifest: every damage is found, and a repetition is the same to the byte."""

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from huggingface_hub import constants
from hypothesis import given
from hypothesis import strategies as st

import taskalg
from taskalg import TaskalgError, Verification, VerificationError, files, verify
from taskalg.cli.main import main
from taskalg.output.manifest import read_manifest
from taskalg.output.public import hub_id
from taskalg.repeating.verify import sampled
from taskalg.running import blocks
from taskalg.running.execute import output_layouts
from tests import oracle
from tests.hub_server import Hub
from tests.oracle import Tensor
from tests.strategies import examples
from tests.test_hub import hub, models, server  # noqa: F401
from tests.test_manifest import model
from tests.test_pipelines import pipeline, sentence

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
NAMES = ("toxic", "math")


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make models, and of them outputs of each sort; tests copy what they damage."""
    folder = tmp_path_factory.mktemp("zoo")
    for index, name in enumerate(("base", *NAMES)):
        model(folder / name, 1 + 40 * index, shards=1 + (name == "toxic"))
    merge(folder, "base - toxic/2", "single")
    merge(folder, "base - toxic/2", "hashed", hash=True)
    merge(folder, "base - toxic/2 + math[0]", "sharded", shard_size="30B")
    merge(folder, 'toxic["*.w"][0]', "vector")
    return folder


def merge(zoo: Path, text: str, out: str, **options: Any) -> Path:
    tasks = {name: zoo / name for name in NAMES if name in text}
    taskalg.compile(text, base=zoo / "base", tasks=tasks).save(zoo / out, **options)
    return zoo / out


def where(zoo: Path, out: Path) -> dict[str, Any]:
    """Say where an output's inputs are."""
    names = [one.name for one in read_manifest(out).inputs]
    tasks = {name: zoo / name for name in names if name != "base"}
    return {"base": zoo / "base" if "base" in names else None, "tasks": tasks}


def tree(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def weights(out: Path) -> list[Path]:
    return sorted(out.glob("*.safetensors"))


def damaged(path: Path, at: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1 << bit
    path.write_bytes(content)


OUTPUTS = ("single", "hashed", "sharded", "vector")


# ---- Every damage is found


@pytest.mark.parametrize("out", OUTPUTS)
def test_an_output_that_nobody_touched_has_no_differences(zoo: Path, out: str) -> None:
    found = verify(zoo / out, **where(zoo, zoo / out))
    size = sum(path.stat().st_size for path in weights(zoo / out))
    assert found.ok
    assert (found.nbytes, found.compared, found.method) == (size, size, "inputs")
    assert str(found) == f"0 differences in {found.tensors} tensors, {size} B"


@examples(150)
@given(st.data())
def test_one_flipped_bit_anywhere_in_any_file_of_weights_is_found(
    tmp_path_factory: pytest.TempPathFactory, zoo: Path, data: st.DataObject
) -> None:
    out = zoo / data.draw(st.sampled_from(OUTPUTS))
    target = data.draw(st.sampled_from(weights(out)))
    content = target.read_bytes()
    at = data.draw(st.sampled_from(places(content)) | st.integers(0, len(content) - 1))
    copy = tmp_path_factory.mktemp("copy") / out.name
    shutil.copytree(out, copy)
    damaged(copy / target.name, at, data.draw(st.integers(0, 7)))
    found = verify(copy, **where(zoo, out))
    assert not found.ok
    header = 8 + int.from_bytes(content[:8], "little")
    if at >= header:
        (one,) = found.differences
        assert (one.name, one.elements, one.nbytes) == (name_at(target, at), 1, 1)
    else:
        assert found.problems
    if out.name == "hashed":
        assert not verify(copy).ok
    shutil.rmtree(copy)


def places(content: bytes) -> list[int]:
    """Return places of each sort: the length, JSON, its padding, both ends of every tensor."""
    header = 8 + int.from_bytes(content[:8], "little")
    entries = json.loads(content[8:header])
    entries.pop("__metadata__")
    ends = [header + end for entry in entries.values() for end in entry["data_offsets"]]
    return [0, 7, 8, header - 1, *ends[::2], *(end - 1 for end in ends[1::2])]


def name_at(path: Path, at: int) -> str:
    content = path.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    entries = json.loads(content[8:header])
    entries.pop("__metadata__")
    ranges = {str(name): entry["data_offsets"] for name, entry in entries.items()}
    return next(name for name, (start, end) in ranges.items() if start <= at - header < end)


def test_the_vector_has_a_tensor_that_no_block_writes(zoo: Path) -> None:
    tensors = oracle.read_file(zoo / "vector" / SINGLE)
    assert tensors["head.w"].data == bytes(8)
    assert tensors["layers.1.w"].data == bytes(24)


def test_many_differences_are_counted_and_the_first_are_named(zoo: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(zoo / "single", out)
    content = bytearray((out / SINGLE).read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    content[header:] = bytes(byte ^ 0xFF for byte in content[header:])
    (out / SINGLE).write_bytes(content)
    found = verify(out, **where(zoo, out))
    assert {one.name: one.elements for one in found.differences} == {
        "ids": 2,
        "layers.0.w": 6,
        "layers.1.w": 6,
        "head.w": 2,
    }
    assert sum(one.nbytes for one in found.differences) == len(content) - header
    assert str(found).startswith("4 of 4 tensors differ: 'ids' in 2 elements, ")


def remove(out: Path) -> None:
    weights(out)[0].unlink()


def lengthen(out: Path) -> None:
    with open(weights(out)[0], "ab") as file:
        file.write(b"\0")


def shorten(out: Path) -> None:
    path = weights(out)[0]
    path.write_bytes(path.read_bytes()[:-1])


def stray(out: Path) -> None:
    shutil.copy(weights(out)[0], out / "model-00009-of-00009.safetensors")


def pickled(out: Path) -> None:
    (out / "pytorch_model.bin").write_bytes(b"x")


def reindex(out: Path) -> None:
    index = json.loads((out / INDEX).read_text("utf-8"))
    homes = index["weight_map"]
    one, other = (next(n for n, home in homes.items() if f"0000{i}-" in home) for i in (1, 2))
    homes[one], homes[other] = homes[other], homes[one]
    (out / INDEX).write_text(json.dumps(index), encoding="utf-8")


def without_index(out: Path) -> None:
    (out / INDEX).unlink()


DAMAGES = (remove, lengthen, shorten, stray, pickled, reindex, without_index)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damage_to_whole_files_is_found_without_any_input(
    zoo: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    out = tmp_path / "out"
    shutil.copytree(zoo / "sharded", out)
    assert verify(out, sample=0).ok
    damage(out)
    found = verify(out, sample=0)
    assert not found.ok
    assert found.method == "headers"


def test_an_index_that_says_the_same_in_other_bytes_is_found_with_inputs(
    zoo: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(zoo / "sharded", out)
    index = json.loads((out / INDEX).read_text("utf-8"))
    index["metadata"]["total_size"] += 1
    (out / INDEX).write_text(json.dumps(index), encoding="utf-8")
    assert verify(out, sample=0).ok
    assert "index.json' is not what its inputs give" in str(verify(out, **where(zoo, out)))


# ---- What can be compared with what is at hand


def test_without_inputs_digests_decide(zoo: Path) -> None:
    found = verify(zoo / "hashed")
    assert (found.ok, found.method, found.compared) == (True, "sha256", found.nbytes)
    assert str(found).endswith(", by SHA-256")


def test_without_inputs_and_digests_it_says_what_to_type(zoo: Path) -> None:
    result = run("verify", str(zoo / "single"), code=2)
    assert "sizes and headers of" in result.stderr
    assert "its contents were not compared" in result.stderr
    assert "does not say where 'base' and 'toxic' are, and has no SHA-256" in result.stderr
    assert "help: add --base PATH --model toxic=PATH, or --sample 0%" in result.stderr
    sample = run("verify", str(zoo / "hashed"), "--sample", "5%", code=2)
    assert "or leave --sample out" in sample.stderr
    assert result.stdout == ""


def test_one_input_of_two_is_not_enough(zoo: Path) -> None:
    result = run("verify", str(zoo / "single"), "--base", str(zoo / "base"), code=2)
    assert "does not say where 'toxic' is" in result.stderr


def test_an_input_that_was_none_is_refused(zoo: Path) -> None:
    args = ["--model", f"maht={zoo}/math"]
    assert "no input of this output" in run("verify", str(zoo / "single"), *args, code=2).stderr


def test_how_an_input_was_bound_does_not_matter(zoo: Path) -> None:
    at_hand = {"base": zoo / "base", "toxic": zoo / "toxic"}
    assert verify(zoo / "single", models=at_hand).ok


@pytest.mark.parametrize("again", ["verify", "rerun"])
def test_another_input_is_told_before_anything_is_compared(
    zoo: Path, tmp_path: Path, again: str
) -> None:
    oracle.write_file(tmp_path / SINGLE, {"w": Tensor("F32", (1,), bytes(4))}, {})
    args = ["--base", str(zoo / "base"), "--model", f"toxic={tmp_path / SINGLE}"]
    args += ["-o", str(tmp_path / "new")] if again == "rerun" else []
    result = run(again, str(zoo / "single"), *args, code=6)
    assert "'toxic' is not the checkpoint that this output was made from" in result.stderr
    assert "it has 1 file, not 2" in result.stderr
    assert not (tmp_path / "new").exists()


def test_an_input_with_other_numbers_is_told_by_its_digest_or_by_what_comes_of_it(
    zoo: Path, tmp_path: Path
) -> None:
    shutil.copytree(zoo / "toxic", tmp_path / "toxic")
    damaged(weights(tmp_path / "toxic")[0], -1, 6)
    tasks = {"toxic": tmp_path / "toxic"}
    with pytest.raises(VerificationError, match="its SHA-256 is another"):
        verify(zoo / "hashed", base=zoo / "base", tasks=tasks)
    assert len(verify(zoo / "single", base=zoo / "base", tasks=tasks).differences) == 1


def test_a_copy_of_an_input_under_other_names_is_the_same_input(zoo: Path, tmp_path: Path) -> None:
    shutil.copy(zoo / "base" / SINGLE, tmp_path / "copied.safetensors")
    tasks = {"toxic": zoo / "toxic"}
    assert verify(zoo / "single", base=tmp_path / "copied.safetensors", tasks=tasks).ok


# ---- Samples


@pytest.fixture
def many_blocks(monkeypatch: pytest.MonkeyPatch, zoo: Path) -> Iterator[Path]:
    monkeypatch.setattr(blocks, "TARGET", 12)
    yield zoo / "sharded"


def sample(zoo: Path, out: Path, share: Fraction) -> list[tuple[int, int, int]]:
    tasks = {name: zoo / name for name in NAMES}
    found = taskalg.compile("base - toxic/2 + math[0]", base=zoo / "base", tasks=tasks).plan()
    layouts = output_layouts(found, out, 30)
    chosen = sampled(found, layouts, 1, share, read_manifest(out))
    return [(block.shard, block.offset, block.nbytes) for block in chosen]


@examples(50)
@given(st.fractions(0, 1).filter(bool))
def test_a_sample_is_the_share_asked_for_at_even_distances(zoo: Path, share: Fraction) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "TARGET", 12)
        out = zoo / "sharded"
        whole, part = sample(zoo, out, Fraction(1)), sample(zoo, out, share)
        assert len(part) == -(-share.numerator * len(whole) // share.denominator)
        assert part == sample(zoo, out, share)
    at = [whole.index(block) for block in part]
    gaps = [b - a for a, b in pairwise(at)]
    assert not gaps or max(gaps) - min(gaps) <= 1
    assert len(whole) > 10


def test_a_sample_compares_less_and_headers_wholly(many_blocks: Path, zoo: Path) -> None:
    found = verify(many_blocks, **where(zoo, many_blocks), sample=0.2)
    assert found.ok
    assert 0 < found.compared < found.nbytes
    assert str(found).endswith(f"{found.compared} B of {found.nbytes} B, by sample")


def test_a_sample_finds_what_lies_in_it_and_nothing_else(
    many_blocks: Path, zoo: Path, tmp_path: Path
) -> None:
    whole = sample(zoo, many_blocks, Fraction(1))
    part = sample(zoo, many_blocks, Fraction(1, 5))
    for block in whole:
        out = tmp_path / "out"
        shutil.copytree(many_blocks, out)
        shard, offset, _ = block
        damaged(out / read_manifest(out).outputs[shard].name, offset)
        assert verify(out, **where(zoo, out), sample=0.2).ok == (block not in part)
        shutil.rmtree(out)


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_a_sample_is_a_share(zoo: Path, share: float) -> None:
    with pytest.raises(taskalg.UsageError, match="from 0 to 1"):
        verify(zoo / "single", sample=share)


# ---- Again, the same


RERUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("base - toxic/2", {}),
    "sharded": ("base - toxic/3", {"shard_size": 30}),
    "hashed": ("base + 0.1*toxic + math/7", {"hash": True}),
    "dtype": ("base - toxic/2", {"dtype": "f16", "donor": "toxic"}),
    "partial": ("base + toxic/3 + base", {"allow_partial": True}),
    "overflowing": ("base - 1e30*toxic", {"on_overflow": "warn", "dtype": "f16"}),
    "selectors": ('base + ramp(0, 1)*toxic[0:1] - math["*.w"]/3', {}),
    "vector": ("toxic - math/2", {}),
    "copied": ("base + toxic", {}),
    "donor cancels": ("base + toxic", {"donor": "base", "dtype": "bf16"}),
    "unnamed": ('base/2 + checkpoint("{zoo}/math")/2', {}),
    "own base": ('base + task("{zoo}/toxic", checkpoint("{zoo}/math"))/2', {}),
}


@pytest.mark.parametrize("way", RERUNS)
def test_a_repetition_is_the_same_to_the_byte(zoo: Path, tmp_path: Path, way: str) -> None:
    text, options = RERUNS[way]
    copy = tmp_path / "other place"
    shutil.copytree(zoo, copy)
    out = merge(zoo, text.format(zoo=zoo), f"{way} out", **options)
    taskalg.rerun(out, tmp_path / "new", **where(copy, out))
    assert tree(tmp_path / "new") == tree(out)
    assert verify(tmp_path / "new", **where(copy, out)).ok
    taskalg.rerun(tmp_path / "new", tmp_path / "third", **where(zoo, out))
    assert tree(tmp_path / "third") == tree(out)


def test_what_was_combined_in_part_is_repeated(zoo: Path, tmp_path: Path) -> None:
    shared = oracle.read_file(zoo / "math" / SINGLE)
    del shared["head.w"]
    oracle.write_file(tmp_path / "less.safetensors", shared, {})
    both = {"base": zoo / "base", "less": tmp_path / "less.safetensors"}
    taskalg.compile("(base + less)/2", models=both).save(tmp_path / "out", only_shared=True)
    taskalg.rerun(tmp_path / "out", tmp_path / "new", models=both)
    assert tree(tmp_path / "new") == tree(tmp_path / "out")
    assert verify(tmp_path / "out", models=both).ok


def test_a_prefix_that_was_stripped_is_stripped_again(zoo: Path, tmp_path: Path) -> None:
    found = oracle.read_file(zoo / "math" / SINGLE)
    path = tmp_path / "math.safetensors"
    oracle.write_file(path, {f"x.{name}": tensor for name, tensor in found.items()}, {})
    made = taskalg.checkpoint(zoo / "base") / 2
    made += taskalg.checkpoint(path, strip_prefix="x.") / 2
    made.save(tmp_path / "out")
    taskalg.rerun(tmp_path / "out", tmp_path / "new", base=zoo / "base", models={"math": path})
    assert tree(tmp_path / "new") == tree(tmp_path / "out")


def adapter(folder: Path, base: Path) -> Path:
    """Write an adapter that changes one weight by factors and stores another whole."""
    weight = oracle.read_file(base / SINGLE)["head.w"]
    key = "base_model.model.layers.0"
    factors = {
        f"{key}.lora_A.weight": Tensor("F32", (1, 2), bytes(range(60, 68))),
        f"{key}.lora_B.weight": Tensor("F32", (3, 1), bytes(range(60, 72))),
        "base_model.model.head.weight": Tensor("F16", (2,), weight.data[::-1]),
    }
    folder.mkdir()
    oracle.write_file(folder / "adapter_model.safetensors", factors, {})
    config = {"peft_type": "LORA", "r": 1, "lora_alpha": 2, "target_modules": ["0"]}
    config |= {"modules_to_save": ["head"], "base_model_name_or_path": "x"}
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def test_an_adapter_is_told_by_its_config_too_and_remembers_its_base(tmp_path: Path) -> None:
    numbers = bytes(range(24))
    (tmp_path / "base").mkdir()
    tensors = {
        "layers.0.weight": Tensor("F32", (3, 2), numbers),
        "head.weight": Tensor("F16", (2,), numbers[:4]),
        "head.w": Tensor("F16", (2,), numbers[:4]),
    }
    oracle.write_file(tmp_path / "base" / SINGLE, tensors, {})
    given: dict[str, Any] = {
        "base": tmp_path / "base",
        "tasks": {"lora": adapter(tmp_path / "lora", tmp_path / "base")},
    }
    out = tmp_path / "out"
    taskalg.compile("base + lora/2", **given).save(out)
    found = {one.name: one for one in read_manifest(out).inputs}
    assert (found["lora"].sort, found["lora"].against) == ("adapter", "base")
    assert [file.name for file in found["lora"].files] == [
        "adapter_model.safetensors",
        "adapter_config.json",
    ]
    assert verify(out, **given).ok
    taskalg.rerun(out, tmp_path / "new", **given)
    assert tree(tmp_path / "new") == tree(out)
    config = tmp_path / "lora" / "adapter_config.json"
    config.write_text(config.read_text("utf-8").replace('"lora_alpha": 2', '"lora_alpha": 3'))
    with pytest.raises(VerificationError, match="adapter_config"):
        taskalg.rerun(out, tmp_path / "third", **given)


def test_an_overwritten_output_has_its_own_manifest(zoo: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(zoo / "sharded", out)
    taskalg.rerun(zoo / "single", out, **where(zoo, zoo / "single"), overwrite=True)
    assert tree(out) == tree(zoo / "single")


# ---- Wherever the inputs are, whatever the output looks like


def test_models_on_the_hub_open_by_themselves_at_the_commit_they_had(
    models: Hub,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"
    paths = {"base": "org/base", "ft": "hf://org/ft"}
    made = taskalg.compile("base/2 + ft/2", models=paths)
    made.explain(out).rehearse()
    assert not out.exists()
    assert [*tmp_path.rglob("*.safetensors")] == [], "nothing is downloaded for a rehearsal"
    made.save(out)
    found = read_manifest(out).inputs
    assert [hub_id(one.origin or "") for one in found] == ["org/base", "org/ft"]
    assert [one.path for one in found] == [one.origin for one in found]
    assert all(file.sha256 for one in found for file in one.files), "the Hub gives them"
    assert "base_model:\n- org/base\n- org/ft\n" in (out / "README.md").read_text("utf-8")
    models.put("org/base", {"model.safetensors": b"other weights"})
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
    assert verify(out).ok
    taskalg.rerun(out, tmp_path / "new")
    assert tree(tmp_path / "new") == tree(out)


@pytest.mark.parametrize("make", [pipeline, sentence])
def test_an_output_of_several_parts_is_verified_and_repeated(
    tmp_path: Path, make: Callable[..., Path]
) -> None:
    given_: dict[str, Any] = {
        "base": make(tmp_path / "base"),
        "tasks": {"ft": make(tmp_path / "ft", 3)},
    }
    for text in ("base + ft/2", "ft"):
        out, new = tmp_path / f"out {text[:2]}", tmp_path / f"new {text[:2]}"
        taskalg.compile(text, **given_).save(out, shard_size=100, hash=True)
        assert verify(out).ok
        assert verify(out, **given_).ok
        taskalg.rerun(out, new, **given_)
        assert tree(new) == tree(out)
        target = sorted(out.rglob("*.safetensors"))[-1]
        damaged(target, -1)
        assert not verify(out).ok
        assert len(verify(out, **given_).differences) == 1


@pytest.mark.parametrize("in_place", [True, False])
def test_a_pickle_is_opened_again_only_if_the_caller_allows_it(
    tmp_path: Path, in_place: bool
) -> None:
    weight = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    torch.save({"w": weight if in_place else weight.t()}, tmp_path / "old.pt")
    out, new = tmp_path / "out", tmp_path / "new"
    taskalg.checkpoint(tmp_path / "old.pt", allow_pickle=True, in_memory=True).save(out)
    args = ["--model", f"old_pt={tmp_path / 'old.pt'}"]
    for again in (["verify", str(out)], ["rerun", str(out), "-o", str(new)]):
        assert "--allow-pickle" in run(*again, *args, code=4).stderr
        run(*again, *args, "--allow-pickle")
    assert tree(new) == tree(out)


# ---- Manifests are strangers' texts


def changed(out: Path, path: str, value: Any) -> None:
    """Set one place of a manifest, such as `inputs.0.name`."""
    found = json.loads((out / "taskalg.json").read_bytes())
    place: Any = found
    *steps, last = (int(step) if step.isdigit() else step for step in path.split("."))
    for step in steps:
        place = place[step]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    (out / "taskalg.json").write_text(json.dumps(found), encoding="utf-8")


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("schema", 2, "its schema is not 1"),
        ("schema", True, "schema of it is not a count"),
        ("kind", ..., "kind of it is not a text"),
        ("inputs", {}, "inputs of it is not a list"),
        ("inputs", [], "its inputs are none"),
        ("inputs", [1], "is not a list of objects"),
        ("inputs.1.name", "base", "two have one name"),
        ("inputs.1.name", "x y", "'x y' is no name"),
        ("inputs.1.sort", "god", "sort of one of its inputs is none of"),
        ("inputs.1.origin", "../../etc", "is no hub id"),
        ("inputs.1.origin", "https://example.org@x", "is no hub id"),
        ("inputs.1.license", "mit\nevil: 1", "is no license"),
        ("inputs.1.files.0.size", -1, "is not a count"),
        ("inputs.1.files.0.size", 2**63, "is not a count"),
        ("inputs.1.files.0.size", 1.5, "is not a whole number"),
        ("inputs.1.files.0.header_sha256", "abc", "is no SHA-256"),
        ("outputs", [], "its outputs are none"),
        ("outputs.0.name", "../x", "leads out of the folder"),
        ("outputs.0.name", "/etc/passwd", "leads out of the folder"),
        ("outputs.0.name", "a/../../x", "leads out of the folder"),
        ("outputs.0.name", "c:x", "leads out of the folder"),
        ("outputs.0.name", "..\\x", "leads out of the folder"),
        ("outputs.0.name", "a\0b", "leads out of the folder"),
        ("outputs.0.name", "", "leads out of the folder"),
        ("decisions.donor", "nobody", "its donor is none of its inputs"),
        ("decisions.on_overflow", "ignore", "is none of error, warn"),
        ("decisions.allow_partial", 0, "is not true or false"),
        ("decisions.shard_size", "5GB", "is not a whole number"),
        ("decisions.dtype", "int4", "dtype of decisions is none of"),
        ("set", {"s": 1}, "s of set is not a text"),
        ("cancelled", [1], "is not a list of texts"),
        ("files", "base +", "is no sum of the inputs"),
        ("files", "base + nobody", "is no sum of the inputs"),
        ("files", "1/3", "is no sum of the inputs"),
        ("files", 'base + 0*checkpoint("/etc/passwd")', "is no sum of the inputs"),
        ("files", 'task("/etc/passwd", base)', "is no sum of the inputs"),
        ("files", 'use "/etc/passwd"\nbase', "is no sum of the inputs"),
        ("files", "x = base\nx", "is no sum of the inputs"),
        ("files", "(" * 500 + "base", "is no sum of the inputs"),
        ("files", "1e999999*base", "is no sum of the inputs"),
        ("inputs.1.against", "1", "is no sum of the inputs"),
    ],
)
@pytest.mark.parametrize("again", ["verify", "rerun"])
def test_a_hostile_manifest_is_refused(
    zoo: Path, tmp_path: Path, again: str, path: str, value: Any, words: str
) -> None:
    out = tmp_path / "out"
    shutil.copytree(zoo / "single", out)
    changed(out, path, value)
    args = ["--base", str(zoo / "base"), "--model", f"toxic={zoo / 'toxic'}"]
    args += ["-o", str(tmp_path / "new")] if again == "rerun" else []
    result = run(again, str(out), *args, code=4)
    assert words in result.stderr
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is not JSON"),
        (b"[]", "is not a JSON object"),
        (b"{}", "schema of it is not a whole number"),
        (b'{"schema": 1, "schema": 1}', "twice"),
        (b'{"schema": ' + b"9" * 5000 + b"}", "is not JSON"),
        (b'{"a":' * 5000, "is nested too deep"),
        (b"\xff", "is not UTF-8"),
    ],
)
def test_a_manifest_that_is_none_is_refused(
    zoo: Path, tmp_path: Path, content: bytes, words: str
) -> None:
    shutil.copytree(zoo / "single", tmp_path / "out")
    (tmp_path / "out" / "taskalg.json").write_bytes(content)
    assert words in run("verify", str(tmp_path / "out"), code=4).stderr


def replacements(found: Any) -> Iterator[tuple[str, Any]]:
    """Yield the path of every value in a JSON object."""
    items = enumerate(found) if isinstance(found, list) else found.items()
    for key, value in items:
        yield str(key), value
        if isinstance(value, dict | list):
            yield from ((f"{key}.{path}", inner) for path, inner in replacements(value))


ODD: st.SearchStrategy[Any] = st.sampled_from(
    [
        None,
        True,
        0,
        -1,
        2**70,
        1.5,
        "",
        "x",
        "/etc/passwd",
        "../..",
        [],
        {},
        [{}],
        "\x1b[2J",
        "base",
    ]
)


@examples(200)
@given(st.data())
def test_any_change_to_a_manifest_gives_an_answer_or_an_error_of_ours(
    tmp_path_factory: pytest.TempPathFactory, zoo: Path, data: st.DataObject
) -> None:
    out = tmp_path_factory.mktemp("odd") / "out"
    shutil.copytree(zoo / "hashed", out)
    whole = json.loads((out / "taskalg.json").read_bytes())
    path = data.draw(st.sampled_from([path for path, _ in replacements(whole)]))
    changed(out, path, data.draw(ODD | st.just(...)))
    opened: list[Path] = []
    real, nothing = files.open_input, dict[str, Any]()

    def open_input(path: Any) -> int:
        opened.append(Path(path))
        return real(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "open_input", open_input)
        for at_hand in (nothing, where(zoo, zoo / "hashed")):
            try:
                assert isinstance(verify(out, **at_hand), Verification)
            except TaskalgError as error:
                assert error.exit_code in (2, 3, 4, 6)
                assert "\x1b" not in str(error)
    inside = (out, zoo)
    assert all(any(path.is_relative_to(one) for one in inside) for path in opened)
    shutil.rmtree(out)


def test_an_output_without_a_manifest_is_told_so(zoo: Path, tmp_path: Path) -> None:
    assert "there is no taskalg.json" in run("verify", str(zoo / "base"), code=4).stderr
    path = str(zoo / "base" / SINGLE)
    for args in (["verify", path], ["rerun", path, "-o", str(tmp_path / "x")]):
        assert "only an output folder has a manifest" in run(*args, code=2).stderr


# ---- The command line


def run(*args: str, code: int = 0) -> Result:
    result = CliRunner().invoke(main, list(args), prog_name="taskalg")
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


def options(zoo: Path) -> list[str]:
    return ["--base", str(zoo / "base"), "--task", f"toxic={zoo / 'toxic'}"]


def test_verify_answers_on_stdout(zoo: Path) -> None:
    assert run("verify", str(zoo / "single"), *options(zoo)).stdout.startswith(
        "0 differences in 4 "
    )
    assert run("verify", str(zoo / "single"), *options(zoo), "--quiet").output == ""
    assert (
        "contents were not compared" in run("verify", str(zoo / "single"), "--sample", "0%").stdout
    )


def test_verify_exits_with_6_and_says_where(zoo: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(zoo / "single", out)
    damaged(out / SINGLE, -1)
    result = run("verify", str(out), *options(zoo), "--quiet", code=6)
    assert result.stderr == "1 of 4 tensors differs: 'head.w' in 1 element\n"
    found = json.loads(run("verify", str(out), *options(zoo), "--json", code=6).stdout)
    assert found["differences"] == [{"name": "head.w", "elements": 1, "bytes": 1}]
    assert (found["schema"], found["ok"], found["method"]) == (1, False, "inputs")


def test_verify_json_of_a_sound_output(zoo: Path) -> None:
    found = json.loads(run("verify", str(zoo / "hashed"), "--json").stdout)
    assert (found["ok"], found["method"], found["problems"]) == (True, "sha256", [])
    assert found["bytes"] == found["bytes_compared"]


@pytest.mark.parametrize("text", ["110%", "x", "-5%", "1e9", "5%%", "9" * 5000])
def test_a_share_must_be_one(zoo: Path, text: str) -> None:
    assert "is no share" in run("verify", str(zoo / "single"), f"--sample={text}", code=2).stderr


@pytest.mark.parametrize("option", ["--task", "--model"])
def test_an_option_without_a_path_is_refused(zoo: Path, option: str) -> None:
    assert "has no path" in run("verify", str(zoo / "single"), option, "toxic", code=2).stderr


def test_rerun_prints_a_receipt(zoo: Path, tmp_path: Path) -> None:
    new = str(tmp_path / "new")
    result = run("rerun", str(zoo / "single"), *options(zoo), "-o", new)
    assert result.stderr.startswith(f"wrote {new}  4 tensors")
    assert (
        "is not empty" in run("rerun", str(zoo / "single"), *options(zoo), "-o", new, code=5).stderr
    )
    args = ["rerun", str(zoo / "single"), *options(zoo), "-o", new, "--overwrite", "--json"]
    assert json.loads(run(*args).stdout)["tensors"] == 4
    assert tree(tmp_path / "new") == tree(zoo / "single")


def test_hash_is_an_option_of_merge(zoo: Path, tmp_path: Path) -> None:
    run("merge", "base - toxic/2", *options(zoo), "-o", str(tmp_path / "out"), "--hash")
    assert tree(tmp_path / "out") == tree(zoo / "hashed")


# ---- Rehearsals


def test_a_dry_run_explains_and_creates_nothing(zoo: Path, tmp_path: Path) -> None:
    args = ["base - toxic/2", *options(zoo), "-o", str(tmp_path / "out"), "--shard-size", "30B"]
    dry = run("merge", *args, "--dry-run")
    assert dry.stdout == run("explain", *args).stdout
    assert json.loads(run("merge", *args, "--dry-run", "--json").stdout) == json.loads(
        run("explain", *args, "--json").stdout
    )
    assert list(tmp_path.iterdir()) == []


def full(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x").touch()


def taken(tmp_path: Path) -> None:
    (tmp_path / "out").touch()


def nowhere(tmp_path: Path) -> None:
    tmp_path.rmdir()


@pytest.mark.parametrize(
    ("prepare", "words"),
    [(full, "is not empty"), (taken, "is a file, and a folder")],
)
def test_a_dry_run_refuses_what_a_run_would(
    zoo: Path, tmp_path: Path, prepare: Callable[[Path], None], words: str
) -> None:
    prepare(tmp_path)
    before = tree(tmp_path)
    args = ["merge", "base - toxic/2", *options(zoo), "-o", str(tmp_path / "out")]
    assert words in run(*args, "--dry-run", code=5).stderr
    assert words in run(*args, code=5).stderr
    assert tree(tmp_path) == before


def test_a_dry_run_may_overwrite(zoo: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(zoo / "sharded", out)
    args = ["merge", "base", *options(zoo), "-o", str(out), "--dry-run", "--overwrite"]
    run(*args)
    assert tree(out) == tree(zoo / "sharded")


def test_a_dry_run_wants_space_and_no_other_run(
    zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from taskalg import system
    from taskalg.output.lock import take_lock

    made = taskalg.compile("base", base=zoo / "base").explain(tmp_path / "out")
    with monkeypatch.context() as patch:
        tight = dataclasses.replace(system.primitives, free=lambda folder: 100)
        patch.setattr(system, "primitives", tight)
        with pytest.raises(taskalg.OutputError, match="not enough space"):
            made.rehearse()
    hidden = tmp_path / "out" / ".taskalg-partial"
    hidden.mkdir(parents=True)
    lock = take_lock(hidden)
    assert lock is not None
    with pytest.raises(taskalg.OutputError, match="another run is writing"):
        made.rehearse()
    lock.release()
    made.rehearse()


@pytest.mark.parametrize("extra", [["--engine", "tpu"], ["--donor", "x"], ["--dtype", "int4"]])
def test_a_dry_run_checks_options(zoo: Path, tmp_path: Path, extra: list[str]) -> None:
    args = ["merge", "base", *options(zoo), "-o", str(tmp_path / "out"), "--dry-run"]
    run(*args, *extra, code=2)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("decisions.shard_size", 1, "would not be what taskalg.json says"),
        ("outputs.0.sha256", "0" * 64, "SHA-256 is another"),
        ("outputs.0.size", 12345, "size or header is another"),
    ],
)
def test_rerun_makes_no_other_files_than_the_manifest_lists(
    zoo: Path, tmp_path: Path, path: str, value: Any, words: str
) -> None:
    shutil.copytree(zoo / "hashed", tmp_path / "out")
    changed(tmp_path / "out", path, value)
    with pytest.raises(taskalg.VerificationError, match=words):
        taskalg.rerun(tmp_path / "out", tmp_path / "new", **where(zoo, zoo / "hashed"))
    assert not (tmp_path / "new").exists()


def test_rerun_says_what_it_could_not_compare(zoo: Path, tmp_path: Path) -> None:
    for name, unsure in (("single", True), ("hashed", False)):
        report = taskalg.rerun(zoo / name, tmp_path / name, **where(zoo, zoo / name))
        assert any("has no SHA-256" in note for note in report.notes) == unsure
