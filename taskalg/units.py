"""Numbers for people: one decimal, decimal prefixes."""

import re

from taskalg.errors import UsageError, quoted

_PREFIXES = ("B", "kB", "MB", "GB", "TB", "PB")
_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([kKmMgGtT]?)([iI]?)[bB]?\s*")


def bytes_text(count: float) -> str:
    """Print a size.

    >>> bytes_text(999), bytes_text(1_550_000_000), bytes_text(15_000_000)
    ('999 B', '1.55 GB', '15.0 MB')
    """
    power = 0
    while count >= 999.5 and power < len(_PREFIXES) - 1:
        count, power = count / 1000, power + 1
    if power == 0:
        return f"{count:.0f} B"
    return f"{count:.{2 if count < 9.995 else 1}f} {_PREFIXES[power]}"


def parse_size(text: str) -> int:
    """Return the bytes that a size like `5GB`, `500 MB` or `2GiB` means.

    Raises:
        UsageError: it is no size, or none at all.
    """
    found = _SIZE.fullmatch(text)
    base = 1024 if found and found[3] else 1000
    size = int(float(found[1]) * base ** " kmgt".index(found[2].lower() or " ")) if found else 0
    if size <= 0:
        raise UsageError(f"{quoted(text)} is not a size", help="write it like 5GB or 500MB")
    return size
