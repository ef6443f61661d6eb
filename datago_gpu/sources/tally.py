"""Stores in a state, in a few bytes, which names were listed, so that resuming notices when the data has changed.

A position is a number in a listing. If a name is added or removed before that place, the number means another sample:
some samples would be repeated, others lost. So the names are counted and digested as they are listed, by their paths
below the root: the same names below another root count as the same data.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from contextlib import aclosing
from hashlib import blake2b
from typing import NamedTuple

from msgspec import structs

from datago_gpu.errors import ConfigError
from datago_gpu.redact import printable
from datago_gpu.sources.reference import ListingDigest, Refs, Tally, utf8_text

__all__ = ["Known", "Passed", "Walked", "Whole", "hold_until_known"]

log = logging.getLogger("datago_gpu")

_BYTES, _MARK_BYTES = 8, 4
_WAY_OUT = (
    "Continuing would repeat some samples and omit others. Restore the data, start without the state, or pass "
    'on_change="accept", which continues with the data as it is now'
)


class Passed(NamedTuple):
    """A place that a walk has reached: the number of names before it, their digest, and the name of the last one."""

    before: int = 0
    digest: bytes | None = b""
    """None if unknown: the place is from a state that was saved before there were digests."""
    name: str = ""

    @classmethod
    def parse(cls, cursor: str) -> Passed:
        """Returns the place of a cursor; the beginning if it is invalid. Older packages wrote "BEFORE:NAME"."""
        head, _, name = cursor.partition(":")
        count, plus, digest = head.partition("+")
        if not count.isdecimal():
            return cls()
        try:
            return cls(int(count), bytes.fromhex(digest) if plus else None, name)
        except ValueError:
            return cls()

    @property
    def cursor(self) -> str:
        """Returns the place as text: "BEFORE+DIGEST:NAME"."""
        known = "" if self.digest is None else f"+{self.digest.hex()}"
        return f"{self.before}{known}:{self.name}"


class _Compared(Tally):
    """Compares a listing with the one of a state."""

    def __init__(self, what: str) -> None:
        """what: the word for listed things, used after a number."""
        self._what = what
        self._expected: ListingDigest | None = None
        self._accepts = False
        self.has_changed = False
        """Whether the listing differs from that of the last state, and the user accepts that."""

    @property
    def pending(self) -> bool:
        return self._expected is not None

    def expect(self, listed: ListingDigest | None, *, accepts: bool) -> None:
        self._expected, self._accepts, self.has_changed = listed, accepts, False

    def _conclude(self, changed: str) -> None:
        """Ends the comparison. changed: what has changed, in words; "" if nothing has."""
        self._expected = None
        if not changed:
            return
        said = f"the data has changed since the state was saved: {changed}"
        if not self._accepts:
            raise ConfigError(f"{said}. {_WAY_OUT}")
        self.has_changed = True
        log.warning("%s; the run continues with the data as it is now, because on_change is 'accept'", said)


class Walked(_Compared):
    """Counts a listing that is walked while samples load. A state does not depend on names behind its place."""

    def __init__(self, what: str, *, shuffled: bool = False) -> None:
        """shuffled: samples are drawn from a buffer of those that were walked past, so their order also depends on
        where the listing ends."""
        super().__init__(what)
        self._count, self._digest, self._known = 0, b"", True
        self._shuffled, self._ended = shuffled, False

    @property
    def listed(self) -> ListingDigest | None:
        """Returns the digest of the names walked past since the start of the epoch."""
        if not self._known:
            return None
        return ListingDigest(self._count, self._digest.hex(), whole=self._ended and self._shuffled)

    def begin(self, place: Passed = Passed()) -> None:  # noqa: B008 - it is a constant
        """Starts a walk at that place."""
        self._count, self._digest, self._known = place.before, place.digest or b"", place.digest is not None
        self._ended = False
        if self._expected and (not self._known or self._count >= self._expected.count):
            self._expected = None

    def add(self, name: bytes) -> None:
        """Adds one name. Raises ConfigError if the name shows that the data differs from that of the state."""
        self._digest = blake2b(self._digest + name, digest_size=_BYTES).digest()
        self._count += 1
        expected = self._expected
        if expected and self._count >= expected.count:
            if self._count > expected.count:
                self._conclude(f"there are more {self._what} than the {expected.count:,} of the state")
            elif self._digest.hex() != expected.digest:
                self._conclude(
                    f"of the first {expected.count:,} {self._what}, which are done in the state, some were added, "
                    "removed or renamed"
                )
            elif not expected.whole:
                self._conclude("")

    def at(self, name: str) -> Passed:
        """Returns the place behind the last added name."""
        return Passed(self._count, self._digest if self._known else None, name)

    def end(self) -> None:
        """Ends the walk. Raises ConfigError if the state has more names."""
        self._ended = True
        expected = self._expected
        if expected:
            fewer = f"only {self._count:,} {self._what} are there, but {expected.count:,} are done in the state"
            self._conclude(fewer if self._count < expected.count else "")


class Whole(_Compared):
    """Counts a listing that is complete before the first sample: a shuffle needs all of it."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self._hash, self._count, self._marks = blake2b(digest_size=_BYTES), 0, ""
        self._listed: ListingDigest | None = None
        self._same_until = self._other_from = ""
        """The names around the place where a change begins."""
        self._appended = ""
        """The first name behind all names of the state."""

    @property
    def listed(self) -> ListingDigest | None:
        """Returns the digest of the whole listing, once `end` was called."""
        return self._listed

    def expect(self, listed: ListingDigest | None, *, accepts: bool) -> None:
        super().expect(listed, accepts=accepts)
        if listed and self._listed:
            self._conclude(self._describe_change(listed, self._listed))

    def note_samples(self, samples: str) -> None:
        """Sets how many samples the listed shards have, as far as known: see `ListingDigest.samples`."""
        if self._listed and self._listed.samples != samples:
            self._listed = structs.replace(self._listed, samples=samples)

    def extend(self, names: Sequence[bytes]) -> None:
        """Adds the next names, in their order."""
        begin = 0
        while begin < len(names):
            end = min(len(names), begin + self._next_stop() - self._count)
            self._note_appended(names[begin])
            self._hash.update(b"\0".join(names[begin:end]) + b"\0")
            self._count += end - begin
            self._note_mark(names[end - 1])
            begin = end

    def end(self, lengths: Iterable[int] | None = None) -> None:
        """Ends the listing. Raises ConfigError if it differs from the state's. lengths: of each file, if known."""
        digest = blake2b(",".join(map(str, lengths)).encode(), digest_size=_BYTES).hexdigest() if lengths else ""
        self._listed = ListingDigest(self._count, self._hash.hexdigest(), self._marks, digest, whole=True)
        if self._expected:
            self._conclude(self._describe_change(self._expected, self._listed))

    def _next_stop(self) -> int:
        """Returns the next count to stop at: a power of two, or the count of the state."""
        power = 1 << self._count.bit_length()
        expected = self._expected.count if self._expected else 0
        return expected if self._count < expected < power else power

    def _note_mark(self, name: bytes) -> None:
        if self._count & (self._count - 1):
            return
        mark = self._hash.digest()[:_MARK_BYTES].hex()
        expected = self._expected.marks[len(self._marks) :][: len(mark)] if self._expected else ""
        self._marks += mark
        if expected and not self._other_from:
            if mark == expected:
                self._same_until = _printable(name)
            else:
                self._other_from = _printable(name)

    def _note_appended(self, name: bytes) -> None:
        expected = self._expected
        if expected and self._count == expected.count and self._hash.hexdigest() == expected.digest:
            self._appended = _printable(name)

    def _describe_change(self, expected: ListingDigest, found: ListingDigest) -> str:
        """Returns what has changed, in words; "" if nothing has."""
        more = found.count - expected.count
        if self._appended:
            return f"{more:,} more {self._what} follow those of the state, the first is {self._appended}"
        if found.digest != expected.digest:
            counts = f"there are {found.count:,} {self._what}, but there were {expected.count:,}"
            if not more:
                counts = f"there are {found.count:,} {self._what} as before, but some names or their order have changed"
            return counts + self._place()
        if found.lengths and expected.lengths and found.lengths != expected.lengths:
            return f"the {found.count:,} {self._what} have the same names, but different lengths"
        return ""

    def _place(self) -> str:
        """Returns where the change begins, as far as that is known."""
        if not self._other_from:
            return f"; the first change is after {self._same_until}" if self._same_until else ""
        after = f"after {self._same_until}, " if self._same_until else ""
        return f"; the first change is {after}at {self._other_from} or before"


class Known(_Compared):
    """Compares a listing whose digest is known without listing it again."""

    _listed: ListingDigest | None = None

    @property
    def listed(self) -> ListingDigest | None:
        """Returns the digest of the whole listing, once `set` was called."""
        return self._listed

    def expect(self, listed: ListingDigest | None, *, accepts: bool) -> None:
        super().expect(listed, accepts=accepts)
        if self._listed:
            self.set(self._listed)

    def set(self, listed: ListingDigest) -> None:
        """Sets the digest. Raises ConfigError if it differs from the state's."""
        self._listed, expected = listed, self._expected
        if expected:
            same = (listed.count, listed.digest) == (expected.count, expected.digest)
            counts = f"there are {listed.count:,} {self._what}, but there were {expected.count:,}"
            if listed.count == expected.count:
                counts = f"there are {listed.count:,} {self._what} as before, but some of them have changed"
            self._conclude("" if same else counts)


def _printable(name: bytes) -> str:
    return repr(printable(utf8_text(name.decode("utf-8", "surrogateescape"))))


async def hold_until_known(refs: Refs, tally: Tally) -> Refs:
    """Yields the samples, but none before the listing is known to be the one of the state. Closes the listing."""
    held = []
    async with aclosing(refs) as listed:
        async for ref in listed:
            held.append(ref)
            if not tally.pending:
                for each in held:
                    yield each
                held.clear()
    for each in held:  # the listing is shorter than the state says, and the user accepts that
        yield each
