"""Bytes from the Hub, by range: a header is read without the gigabytes of weights behind it.

No answer is believed: its status, range, length and name (ETag) are held against what was asked,
and what is read of it is bounded in bytes and in time. The library's client is used, and with it
the user's proxy, certificates, token and endpoint. Rejected: the library's own reader of headers,
which takes the last of two equal names, and whatever length a server sends.
"""

import re
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

from taskalg.checkpoints.base import RemoteFile
from taskalg.checkpoints.hub.errors import Subject, changed, failure, offline, refusal
from taskalg.version import __version__

FIRST_GUESS = 100_000  # bytes; the Hub's client found 97 % of headers to fit
PAUSES = (1.0, 2.0, 4.0, 8.0)  # seconds before the second to the fifth try
LONGEST_PAUSE = 60.0  # seconds, whatever the Hub asks for
PATIENCE = 120.0  # seconds for one answer, however slowly it trickles
_PASSING = (408, 429, 500, 502, 503, 504)  # statuses that another try may heal
# Errors of the client, which is httpx or httpx2; a path that is misspelt should not take long.
_NOBODY_THERE = ("ConnectError", "ConnectTimeout", "UnsupportedProtocol", "InvalidURL")

wait = time.sleep  # tests do not


@dataclass(frozen=True)
class Answer:
    """What a server said."""

    status: int
    headers: Mapping[str, str]  # in lower case; the Hub's own (x-…) also from before a redirect
    body: bytes  # its beginning, if it is longer than the limit


def get(url: str, about: Subject, *, limit: int, asked: Mapping[str, str] | None = None) -> Answer:
    """Ask for something, a few times if need be.

    Args:
        url: where it is.
        about: what messages call it.
        limit: bytes of the answer that are wanted; a little more shows that there are more.
        asked: headers.

    Raises:
        CheckpointError: offline, out of reach, or refused.
    """
    from huggingface_hub import is_offline_mode

    if is_offline_mode():
        raise offline(about)
    for pause in (*PAUSES, None):
        longer = 0.0
        try:
            answer = _ask(url, limit, asked or {})
        except failures() as error:
            told = failure(error, about)
            if type(error).__name__ in _NOBODY_THERE:
                raise told from error
        else:
            if answer.status in (200, 206):
                return answer
            told = refusal(answer.status, answer.headers, about)
            if answer.status not in _PASSING:
                raise told
            longer = _seconds(answer.headers.get("retry-after", ""))
        if pause is None:
            raise told
        wait(min(max(pause, longer), LONGEST_PAUSE))
    raise AssertionError("the last pause is None")


def failures() -> tuple[type[Exception], ...]:
    """Return what the library and its client raise; which client that is depends on its version."""
    from huggingface_hub.errors import HfHubHTTPError

    root = next(kind for kind in HfHubHTTPError.__mro__ if kind.__name__ == "HTTPError")
    client = sys.modules[root.__module__.partition(".")[0]]
    return (root, client.InvalidURL, OSError, ValueError, RuntimeError)


class RangedFile:
    """A file on the Hub, of which ranges are read; all of them of one content."""

    def __init__(self, file: RemoteFile) -> None:
        from huggingface_hub import constants

        path = quote(file.path)
        self._url = f"{constants.ENDPOINT}/{file.repository}/resolve/{file.commit}/{path}"
        self._file = file
        self._start = b""  # all that was read: the file's beginning
        self._etag: str | None = None  # of the answers

    def read(self, offset: int, count: int) -> bytes:
        """Return `count` bytes from `offset` on; what lies between the last read and them is read.

        Raises:
            CheckpointError: they cannot be had, or the file changed between two reads.
        """
        end = offset + count
        if end > len(self._start):
            upto = min(max(end, FIRST_GUESS), self._file.size)
            self._start += self._range(len(self._start), upto)
        return self._start[offset:end]

    def _range(self, start: int, end: int) -> bytes:
        asked = {"Range": f"bytes={start}-{end - 1}"}
        if self._etag is not None:
            asked["If-Range"] = self._etag
        answer = get(self._url, self._file, limit=end - start, asked=asked)
        self._check(answer, start, end)
        if len(answer.body) != end - start:
            note = f"{len(answer.body):,} bytes came in place of {end - start:,}"
            raise failure(OSError(note), self._file)
        return answer.body

    def _check(self, answer: Answer, start: int, end: int) -> None:
        headers, size = answer.headers, self._file.size
        if headers.get("x-repo-commit", self._file.commit) != self._file.commit:
            raise changed(self._file, "the Hub answers with another commit")
        linked = _name(headers.get("x-linked-etag"))
        if None not in (linked, self._file.etag) and linked != self._file.etag:
            raise changed(self._file, "the Hub's list has another name (ETag) for its content")
        found = headers.get("etag")
        if self._etag is not None and found != self._etag:
            raise changed(self._file, "its name (ETag) is another than a moment ago")
        if found is not None and not found.startswith("W/"):
            self._etag = found
        told = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", headers.get("content-range", ""))
        if answer.status == 206 and told is None:
            raise failure(OSError("the answer does not say which bytes it holds"), self._file)
        if told is not None and int(told[3]) != size:
            raise changed(self._file, f"it has {int(told[3]):,} bytes, and had {size:,}")
        if told is not None and (int(told[1]), int(told[2])) != (start, end - 1):
            raise failure(OSError("the answer holds other bytes than were asked for"), self._file)
        if told is None and (start, end) != (0, size):
            raise failure(OSError("the server does not give parts of files"), self._file)


def _ask(url: str, limit: int, asked: Mapping[str, str]) -> Answer:
    from huggingface_hub import constants, get_session
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    sent = build_hf_headers(
        library_name="taskalg",
        library_version=__version__,
        headers={**asked, "Accept-Encoding": "identity"},
    )
    deadline = time.monotonic() + PATIENCE
    body, timeout = bytearray(), constants.HF_HUB_DOWNLOAD_TIMEOUT
    with get_session().stream(
        "GET", url, headers=sent, timeout=timeout, follow_redirects=True
    ) as response:
        for chunk in response.iter_raw():
            body += chunk
            if len(body) > limit:
                break
            if time.monotonic() > deadline:
                raise TimeoutError(f"the answer takes longer than {PATIENCE:.0f} seconds")
        headers = {
            name.lower(): value
            for one in (*response.history, response)
            for name, value in one.headers.items()
            if one is response or name.lower().startswith("x-")
        }
    return Answer(response.status_code, headers, bytes(body))


def _name(etag: str | None) -> str | None:
    return None if etag is None else etag.removeprefix("W/").strip('"')


def _seconds(retry_after: str) -> float:
    return float(retry_after) if retry_after.isdecimal() else 0.0
