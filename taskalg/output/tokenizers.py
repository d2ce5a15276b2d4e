"""What inputs' tokenizers and chat templates say about each other, for whoever reads the plan.

The output has the donor's tokenizer. When another input was trained with other tokens under the
same ids, or with a chat template that the donor lacks, the weights fit and the result is bad all
the same: equal shapes do not mean equal tokens. These are warnings, so a file that cannot be read
is passed over.
"""

import hashlib
import json
import re
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

    Memory: twice the larger file, six times when two differ; files of more than
    `LARGEST_TOKENIZER` [bytes] are not looked at.
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
    config = _value(_text(folder / "tokenizer_config.json"))
    return isinstance(config, dict) and bool(config.get("chat_template"))


def _difference(folder: Path, other: Path) -> str | None:
    """Say on how many ids two tokenizers differ; None when they agree, or nobody can tell."""
    for name in _VOCABULARIES:
        digests = [_digest(folder / name), _digest(other / name)]
        if None in digests:
            continue
        if digests[0] == digests[1]:
            return None
        mine, theirs = _vocabulary(folder / name), _vocabulary(other / name)
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


def _digest(path: Path) -> bytes | None:
    content = _content(path)
    return None if content is None else hashlib.sha256(content).digest()


def _text(path: Path) -> str:
    return (_content(path) or b"").decode("utf-8", "replace")


def _value(text: str, start: int = 0) -> Any:
    """Return the JSON value that begins at a place in a text; None when there is none."""
    try:
        value, _ = json.JSONDecoder().raw_decode(text, start)
    except (ValueError, RecursionError):
        return None
    return value


def _member(text: str, name: str) -> Any:
    """Return the first list or object of a name, wherever it is: merges take five times the rest.

    A token of that name stands before a number, and one inside a string has its quotes escaped.
    """
    found = re.search(rf'"{name}"\s*:\s*(?=[\[{{])', text)
    return None if found is None else _value(text, found.end())


def _vocabulary(path: Path) -> Vocabulary:
    text = _text(path)
    if path.suffix == ".txt":
        return dict(enumerate(text.removesuffix("\n").split("\n")))
    if path.stem == "vocab":
        return _by_id(_value(text))
    vocabulary, added = _by_id(_member(text, "vocab")), _member(text, "added_tokens")
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
