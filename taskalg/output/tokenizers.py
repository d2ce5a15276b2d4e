"""What inputs' tokenizers and chat templates say about each other, for whoever reads the plan.

The output has the donor's tokenizer. When another input was trained with other tokens under the
same ids, or with a chat template that the donor lacks, the weights fit and the result is bad all
the same: equal shapes do not mean equal tokens. These are warnings, so a file that cannot be read
is passed over.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from taskalg import files
from taskalg.errors import CheckpointError, listed, printable, quoted
from taskalg.output.sidefiles import TEMPLATES

LARGEST_TOKENIZER = 40_000_000  # bytes; the largest tokenizer.json known has 35 MB
_VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt")  # the first that both have

Vocabulary = dict[int, str]  # token by id


def template_warning(donor: str, folder: Path, others: Mapping[str, Path]) -> str | None:
    """Say which inputs have a chat template when the donor has none.

    Args:
        donor: what the donor is called.
        folder: the donor's.
        others: folders of the other inputs that take part, by what they are called.
    """
    if _has_template(folder):
        return None
    having = [printable(name) for name, other in others.items() if _has_template(other)]
    if not having:
        return None
    verb = "has a chat template" if len(having) == 1 else "have chat templates"
    return f"{listed(having)} {verb}, {printable(donor)} has none: the output will have none"


def vocabulary_warnings(donor: str, folder: Path, others: Mapping[str, Path]) -> tuple[str, ...]:
    """Say which inputs' tokenizers give an id to another token than the donor's does.

    Args:
        donor: what the donor is called.
        folder: the donor's.
        others: folders of the other inputs that take part, by what they are called.

    Memory: about eight times the larger file, when two differ; files of `LARGEST_TOKENIZER` [bytes]
    and more are not looked at.
    """
    found = ((name, _difference(folder, other)) for name, other in others.items())
    return tuple(
        f"the tokenizers of {printable(donor)} and {printable(name)} differ on {difference}"
        for name, difference in found
        if difference is not None
    )


def _has_template(folder: Path) -> bool:
    if files.exists(folder / "chat_template.jinja") or files.exists(folder / TEMPLATES):
        return True
    config = _parsed(_content(folder / "tokenizer_config.json"))
    return isinstance(config, dict) and bool(config.get("chat_template"))


def _difference(folder: Path, other: Path) -> str | None:
    """Say on how many ids two tokenizers differ; None when they agree, or nobody can tell."""
    for name in _VOCABULARIES:
        contents = [_content(folder / name), _content(other / name)]
        if contents[0] is None or contents[1] is None:
            continue
        if contents[0] == contents[1]:
            return None
        mine, theirs = (_vocabulary(name, content) for content in contents)
        different = [i for i, token in mine.items() if theirs.get(i, token) != token]
        if not different:
            return None
        first = min(different)
        tokens = f"{quoted(mine[first])} in one and {quoted(theirs[first])} in the other"
        return f"{len(different):,} of {len(mine):,} ids: {first} is {tokens}"
    return None


def _content(path: Path) -> bytes | None:
    """Return a file's bytes; None when there is none, or it is no file of a sensible size."""
    try:
        if not files.is_file(path) or files.fingerprint(path).size > LARGEST_TOKENIZER:
            return None
        return files.read_small(path, LARGEST_TOKENIZER)
    except CheckpointError:
        return None


def _parsed(content: bytes | None) -> Any:
    try:
        return json.loads(content or b"null")
    except (ValueError, RecursionError):
        return None


def _vocabulary(name: str, content: bytes | None) -> Vocabulary:
    if name == "vocab.txt":
        text = (content or b"").decode("utf-8", "replace")
        return dict(enumerate(text.removesuffix("\n").split("\n")))
    found = _parsed(content)
    if not isinstance(found, dict):
        return {}
    if name == "vocab.json":
        return _by_id(found)
    model, added = found.get("model"), found.get("added_tokens")
    vocabulary = _by_id(model.get("vocab") if isinstance(model, dict) else None)
    for token in added if isinstance(added, list) else ():
        if isinstance(token, dict) and isinstance(token.get("content"), str):
            vocabulary |= _by_id({token["content"]: token.get("id")})
    return vocabulary


def _by_id(tokens: Any) -> Vocabulary:
    """Turn ids by token, or a list of tokens with their scores, around."""
    if isinstance(tokens, list):
        pairs = [
            (i, entry[0]) for i, entry in enumerate(tokens) if isinstance(entry, list) and entry
        ]
    elif isinstance(tokens, dict):
        pairs = [(number, token) for token, number in tokens.items()]
    else:
        return {}
    return {i: token for i, token in pairs if isinstance(i, int) and isinstance(token, str)}
