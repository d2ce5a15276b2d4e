"""Addresses on the Hub: a text becomes a model, a revision and a path inside it.

`hf://` texts are read by the library's own parser, so that all tools agree on them.
"""

import re
from dataclasses import dataclass
from urllib.parse import quote

from taskalg.errors import CheckpointError, printable, quoted

_SHORT = re.compile(r"([\w][\w.-]*/[\w][\w.-]*)(?:@(.+))?", re.ASCII)
_NAME = re.compile(r"hf://([\w][\w.-]*)(?:@([^/]+))?/?", re.ASCII)  # as "gpt2", without a namespace

_FILES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".json", ".ta")  # no models


@dataclass(frozen=True)
class Address:
    """Where on the Hub something is."""

    repository: str  # "org/name"; a few old models have no "org/"
    revision: str | None  # None for the default branch
    path: str  # inside the model: a folder, or one file; "" for all of it

    @property
    def called(self) -> str:
        """What messages call it, which can be typed too."""
        revision = f"@{self.revision.replace('/', '%2F')}" if self.revision else ""
        return f"hf://{self.repository}{revision}{'/' if self.path else ''}{self.path}"


def parse_address(text: str) -> Address | None:
    """Return the address that a text is; None when it can only be a path.

    Args:
        text: what a user gave as a path. Without `hf://` nothing of that name is on this machine.

    Raises:
        CheckpointError: it starts with hf:// and is no address of a model, or the library that
            reads addresses is missing.
    """
    short = _SHORT.fullmatch(text)
    if short is not None and not text.lower().endswith(_FILES):
        revision = None if short[2] is None else quote(short[2], safe="")
        uri = f"hf://models/{short[1]}" + (f"@{revision}" if revision else "")
    elif text.startswith("hf://"):
        uri = text
    else:
        return None
    _need_library(text)
    found = _old_name(uri) or _read_uri(uri)
    for part in (*found.path.split("/"), *(found.revision or "").split("/")):
        if part in (".", "..") or not part.isprintable() or "\\" in part:
            raise _no_address(text, f"{quoted(part)} cannot be in it")
    return found


def _need_library(text: str) -> None:
    try:
        from huggingface_hub import (  # noqa: F401
            get_cached_repo_tree,
            is_offline_mode,
            parse_hf_uri,
        )
    except ImportError:
        raise CheckpointError(
            f"there is no {quoted(text)} on this machine",
            note="to look for it on the Hub takes the library huggingface_hub, 1.31 or newer",
            help='run: pip install "taskalg[hub]"',
        ) from None


def _old_name(text: str) -> Address | None:
    found = _NAME.fullmatch(text)
    return None if found is None else Address(found[1], found[2], "")


def _read_uri(text: str) -> Address:
    from huggingface_hub import parse_hf_uri
    from huggingface_hub.errors import HfUriError

    try:
        found = parse_hf_uri(text)
    except HfUriError as error:
        raise _no_address(text, printable(error.msg)) from None
    if found.type != "model":
        raise _no_address(text, f"it is a {found.type}")
    return Address(found.id, found.revision, found.path_in_repo)


def _no_address(text: str, note: str) -> CheckpointError:
    return CheckpointError(
        f"{quoted(text)} is no address of a model on the Hub",
        note=note,
        help="write hf://org/name, hf://org/name@revision, or either with /path",
    )
