"""What went wrong at the Hub: a status, a code or a library's exception becomes one sentence."""

import errno
from collections.abc import Mapping
from typing import Protocol

from taskalg.errors import CheckpointError, printable, quoted

_LOG_IN = "check the spelling; for a private model run: hf auth login"
_LATER = "try again later, or set HF_HUB_OFFLINE=1 to use what the cache has"
_ROOM = (errno.ENOSPC, errno.EDQUOT)


class Subject(Protocol):
    """What was asked for."""

    @property
    def repository(self) -> str:
        """The model, "org/name"."""

    @property
    def called(self) -> str:
        """What messages call it."""


def refusal(status: int, headers: Mapping[str, str], about: Subject) -> CheckpointError:
    """Return the error for an answer that is none; `headers` in lower case."""
    code, model = headers.get("x-error-code", ""), quoted(about.repository)
    words = printable(headers.get("x-error-message", ""))[:200] or None
    if code == "GatedRepo":
        return CheckpointError(
            f"{model} is gated: its authors ask for consent first",
            note=words,
            help="accept its terms on its page on the Hub, then run: hf auth login",
        )
    if code == "RevisionNotFound":
        return CheckpointError(
            f"there is no {quoted(about.called)}: the model has no such revision",
            help="give a branch, a tag or a commit: org/name@revision",
        )
    if code == "EntryNotFound":
        return CheckpointError(f"there is no {quoted(about.called)}", help="check the path")
    if code == "RepoNotFound" or status in (401, 404):
        message = f"there is no model {model} on the Hub, or none that you may see"
        return CheckpointError(message, help=_LOG_IN)
    if status == 403:
        message = f"the Hub does not let you read {model}"
        return CheckpointError(message, note=words, help="run: hf auth login")
    if status == 429:
        return CheckpointError(
            "the Hub takes no more requests from here for now",
            note=f"asked for {quoted(about.called)} several times",
            help="wait some minutes; the limit is higher after: hf auth login",
        )
    if status in (408, 416) or status >= 500:
        message = f"the Hub fails to give {quoted(about.called)}"
        return CheckpointError(message, note=f"it answers with status {status}", help=_LATER)
    return CheckpointError(f"the Hub answers {quoted(about.called)} with status {status}")


def offline(about: Subject, missing: str | None = None) -> CheckpointError:
    """Return the error for what the cache lacks while the network is forbidden."""
    return CheckpointError(
        f"{quoted(about.called)} is not in the cache, and HF_HUB_OFFLINE forbids to fetch it",
        note=missing,
        help=f"unset HF_HUB_OFFLINE, or run: hf download {printable(about.repository)}",
    )


def failure(error: BaseException, about: Subject) -> CheckpointError:
    """Return the error for what a library raised, by what lies beneath it."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    beneath: BaseException | None = error
    while beneath is not None:
        if isinstance(beneath, HfHubHTTPError):
            headers = {name.lower(): value for name, value in beneath.response.headers.items()}
            return refusal(beneath.response.status_code, headers, about)
        if isinstance(beneath, OfflineModeIsEnabled):
            return offline(about)
        if isinstance(beneath, OSError) and beneath.errno in _ROOM:
            return CheckpointError(
                f"no space is left for {quoted(about.called)} in the Hub's cache",
                help="free some space, or set HF_HOME to a folder on another disk",
            )
        error, beneath = beneath, beneath.__cause__
    words = printable(str(error).strip().partition("\n")[0])[:200]
    return CheckpointError(
        f"cannot fetch {quoted(about.called)} from the Hub",
        note=words or type(error).__name__,
        help="check the connection, or set HF_HUB_OFFLINE=1 to use what the cache has",
    )


def changed(about: Subject, note: str) -> CheckpointError:
    """Return the error for a file that is not what it was a moment ago."""
    return CheckpointError(
        f"{quoted(about.called)} changed while it was read",
        note=note,
        help="run the command again",
    )
