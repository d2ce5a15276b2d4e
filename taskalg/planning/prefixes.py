"""Two lists of tensor names to the one prefix that makes them agree.

One model goes by several names: GPT-2's hub file has `h.0.…` where transformers saves
`transformer.h.0.…`, a compiled module says `_orig_mod.`, a vision model holds a language model
below `language_model.`. The prefix is found in the names themselves and used only when all of them
agree afterwards. Rejected: a list of known prefixes, which is never complete and would rename what
agrees already.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

_DEEPEST = 8  # components that a prefix may have; names are untrusted and may have a million
_ASKED = 2000  # names of each side that are asked for a prefix, evenly spaced
_TRIED = 4  # prefixes that are tried on all names, the likeliest first


@dataclass(frozen=True)
class Prefix:
    """What is dropped from names, or added to them, to make them the donor's."""

    text: str  # with the dot or slash that ends it
    dropped: bool  # else added

    def rename(self, name: str) -> str:
        """Return the donor's name for one; as it is when it lacks a prefix to drop."""
        return name.removeprefix(self.text) if self.dropped else self.text + name


@dataclass(frozen=True)
class Match:
    """How well names agree with the donor's after a prefix was dropped or added."""

    prefix: Prefix
    names: Mapping[str, str]  # only those that change: old name -> the donor's
    matching: int  # tensors that must agree and do
    total: int  # tensors that must agree
    complete: bool  # nothing is left over on one of the two sides


@dataclass(frozen=True)
class Side:
    """The names of one checkpoint."""

    names: Collection[str]  # all; membership is asked often
    needed: Collection[str]  # those that must agree, so that a prefix is the right one


def agree(donor: Side, other: Side, *, sparse: bool = False) -> bool:
    """Tell whether names agree as they are: one side has all that the other needs.

    A sparse checkpoint has some of the donor's names only, so it is the one whose are looked for.
    """
    if all(name in donor.names for name in other.needed):
        return True
    return not sparse and all(name in other.names for name in donor.needed)


def find_prefix(donor: Side, other: Side, *, sparse: bool = False) -> Match | None:
    """Find the one prefix that makes the other's names agree with the donor's.

    Returns:
        The complete match, if there is exactly one. Else the best incomplete one, for a message.
        None when no prefix helps, or when two would do.
    """
    found = [
        match
        for prefix in _candidates(donor, other)
        if (match := _match(prefix, donor, other, sparse)) is not None
    ]
    complete = [match for match in found if match.complete]
    if complete:
        return complete[0] if len(complete) == 1 else None
    return max(found, key=lambda match: match.matching, default=None)


def _candidates(donor: Side, other: Side) -> Iterator[Prefix]:
    counts: Counter[Prefix] = Counter()
    for needed, known, dropped in ((other.needed, donor, True), (donor.needed, other, False)):
        strange = [name for name in needed if name not in known.names]
        for name in strange[:: 1 + len(strange) // _ASKED]:
            counts.update(Prefix(text, dropped) for text in _starts(name, known.names))
    return (prefix for prefix, _ in counts.most_common(_TRIED))


def _starts(name: str, known: Collection[str]) -> Iterator[str]:
    """Yield what stands before a known name in this one."""
    end = 0
    for _ in range(_DEEPEST):
        ends = [place for mark in "./" if (place := name.find(mark, end)) >= 0]
        if not ends:
            return
        end = min(ends) + 1
        if name[end:] in known:
            yield name[:end]


def _match(prefix: Prefix, donor: Side, other: Side, sparse: bool) -> Match | None:
    renamed = ((name, prefix.rename(name)) for name in other.names)
    names = {old: new for old, new in renamed if old != new and new in donor.names}
    after = {names.get(name, name) for name in other.names}
    if not names or len(after) < len(other.names):
        return None  # two tensors would have one name
    needed = [names.get(name, name) for name in other.needed]
    complete = agree(donor, Side(after, needed), sparse=sparse)
    matching = sum(name in donor.names for name in needed)
    return Match(prefix, names, matching, len(needed), complete)
