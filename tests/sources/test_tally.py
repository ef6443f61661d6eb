"""A stream that goes on from a state either gets exactly what is left, or says that the data is another."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datago_gpu.config import LoaderConfig
from datago_gpu.errors import ConfigError, SourceError
from datago_gpu.feeder.wire import Resume
from datago_gpu.sources import open_source
from datago_gpu.sources.http.http_client import HttpClient
from datago_gpu.sources.reference import ListingDigest, Position, SampleRef
from datago_gpu.sources.tally import Passed, Walked, Whole, hold_until_known
from datago_gpu.sources.webdataset.shard_list import Shard
from datago_gpu.sources.webdataset.shard_names import names_of
from tests.support.images import file_config
from tests.support.listing import Listing, config_for
from tests.support.servers import Answer, MisbehavingServer
from tests.support.shards import shard_config, write_shards

SETTINGS = [{}, {"random_sampling": True}, {"rank": 1, "world_size": 2}]


async def refs_of(config: LoaderConfig, resume: Resume) -> list[tuple[SampleRef, ListingDigest | None]]:
    """What is listed, each with what was listed so far by then."""
    async with HttpClient(config.http_config) as http:
        source = open_source(config, http)
        source.tally.expect(resume.listed, accepts=resume.accepts_change)
        refs = source.refs(resume.position)
        found = []
        async with aclosing(hold_until_known(refs, source.tally) if source.tally.pending else refs) as listed:
            async for ref in listed:
                assert isinstance(ref, SampleRef)
                assert not source.tally.pending
                found.append((ref, source.tally.listed))
        return found


def ids(config: LoaderConfig, resume: Resume) -> list[str]:
    """The samples that are still to come."""
    done = {index for first, last in resume.done for index in range(first, last + 1)}
    return [ref.id for ref, _ in asyncio.run(refs_of(config, resume)) if ref.index not in done]


def stopped(config: LoaderConfig, done: Iterable[int]) -> tuple[Resume, list[str]]:
    """Where a stream stands of which the samples with these numbers were delivered, and their ids."""
    found = asyncio.run(refs_of(config, Resume(Position(1))))
    numbers = {number % len(found) for number in done} if found else set()
    if not numbers:
        return Resume(Position(1)), []
    left = [ref for ref, _ in found if ref.index not in numbers]
    at = left[0] if left else found[-1][0]
    return (
        Resume(
            Position(1, at.index, at.cursor),
            [(number, number) for number in sorted(numbers)],
            len(numbers),
            listed=found[max(numbers)][1],
        ),
        [ref.id for ref, _ in found if ref.index in numbers],
    )


FOLDERS = ["", "a/", "b/", "b/c/"]
NAMES = st.sets(st.builds("{}{:02}.jpg".format, st.sampled_from(FOLDERS), st.integers(0, 9)), min_size=1, max_size=16)
DONE = st.sets(st.integers(0, 40), min_size=1, max_size=8)


def write(root: Path, names: Iterable[str]) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def check(config: LoaderConfig, resume: Resume, done: list[str], before: set[str], after: set[str]) -> None:
    """Whatever has changed: nothing comes twice, nothing is left out, or else it is refused."""
    try:
        rest = ids(config, resume)
    except (ConfigError, SourceError):
        assert before != after
        return
    if not after:
        return
    fresh = set(ids(config, Resume(Position(1))))
    if resume.position.cursor:  # what was added before the place comes in the next epoch
        fresh -= {name for name in after - before if name <= Passed.parse(resume.position.cursor).name}
    assert sorted({*done} & after | {*rest}) == sorted(fresh)
    assert len({*done} | {*rest}) == len(done) + len(rest)


@settings(max_examples=60)
@given(NAMES, NAMES, st.booleans(), DONE, st.sampled_from(SETTINGS))
def test_a_folder_that_has_changed_is_refused_or_does_no_harm(
    before: set[str], others: set[str], adds: bool, done: set[int], source: dict[str, Any]
) -> None:
    after = before | others if adds else (before - others) | set(list(others)[:1])
    with tempfile.TemporaryDirectory() as folder:
        old, new = write(Path(folder) / "old", before), write(Path(folder) / "new", after)
        resume, delivered = stopped(file_config(old, source=source), done)
        check(file_config(new, source=source), resume, delivered, before, after)
        again = ids(file_config(old, source=source), resume)
        moved = file_config(write(Path(folder) / "elsewhere", before), source=source)
        assert ids(moved, resume) == again


@settings(max_examples=40)
@given(
    before=st.sets(st.integers(0, 60).map("im-{:03}".format), min_size=1, max_size=30),
    others=st.sets(st.integers(0, 60).map("im-{:03}".format), max_size=3),
    adds=st.booleans(),
    done=DONE,
    source=st.sampled_from([*SETTINGS, {"random_sampling": True, "shuffle_buffer": 3}]),
)
def test_a_dataroom_that_has_changed_is_refused_or_does_no_harm(
    server: MisbehavingServer, before: set[str], others: set[str], adds: bool, done: set[int], source: dict[str, Any]
) -> None:
    after = before | others if adds else before - others
    config = config_for(Listing(server, before).api_url, page_size=4, check_count=False, **source)
    try:
        resume, delivered = stopped(config, done)
        again = ids(config, resume)
    except SourceError:  # no image is this rank's, nor that of another
        return
    assert sorted(delivered + again) == sorted(ids(config, Resume(Position(1))))
    Listing(server, after)
    check(config, resume, delivered, before, after)


def changed(before: list[str], after: list[str]) -> str:
    """What is said of a whole listing that has changed."""
    state = whole(before)
    tally = Whole("images")
    tally.expect(state.listed, accepts=False)
    tally.extend([name.encode() for name in after])
    with pytest.raises(ConfigError) as caught:
        tally.end()
    said = str(caught.value).removeprefix("the data has changed since the state was saved: ")
    return said.partition(". Continuing would repeat some samples and omit others.")[0]


def whole(names: list[str], steps: int = 1000) -> Whole:
    tally = Whole("images")
    for begin in range(0, len(names), steps):
        tally.extend([name.encode() for name in names[begin : begin + steps]])
    tally.end()
    return tally


def test_what_has_changed_is_said() -> None:
    old = [f"{number:04}.jpg" for number in range(200)]
    assert changed(old, [*old, "x.jpg", "y.jpg", "z.jpg"]) == (
        "3 more images follow those of the state, the first is 'x.jpg'"
    )
    assert changed(old, ["0000a.jpg", *old]) == (
        "there are 201 images, but there were 200; the first change is at '0000a.jpg' or before"
    )
    assert changed(old, old[:100] + old[101:]) == (
        "there are 199 images, but there were 200; the first change is after '0063.jpg', at '0128.jpg' or before"
    )
    assert changed(old, old[:199]) == "there are 199 images, but there were 200; the first change is after '0127.jpg'"
    assert changed(old, [*old[:3], "0003\n.jpg", *old[4:]]) == (
        "there are 200 images as before, but some names or their order have changed; "
        r"the first change is after '0001.jpg', at '0003\\n.jpg' or before"
    )


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=3)), st.data())
def test_a_whole_listing_is_digested_alike_however_it_comes(names: list[str], data: st.DataObject) -> None:
    expected = whole(names).listed
    assert whole(names, data.draw(st.integers(1, 5))).listed == expected
    assert expected is not None
    assert len(expected.marks) == 8 * len(names).bit_length()
    tally = Whole("images")
    tally.expect(expected, accepts=False)
    tally.extend([name.encode() for name in names])
    tally.end()
    assert not tally.pending


def test_a_million_names_make_a_small_digest() -> None:
    listed = whole([f"{number}.jpg" for number in range(1_000_000)]).listed
    assert len(msgspec.json.encode(listed)) < 300


def test_a_walk_goes_on_from_a_cursor_with_the_digest_of_all_before() -> None:
    walked = Walked("images")
    walked.begin()
    for name in (b"a", b"b"):
        walked.add(name)
    other = Walked("images")
    other.begin(Passed.parse(walked.at("b:c").cursor))
    for each in (walked, other):
        each.add(b"c")
    assert walked.listed == other.listed
    assert walked.listed is not None
    assert walked.listed.count == 3


@pytest.mark.parametrize("cursor", ["", ":", "x", "1+zz:a", "-1:a", "x+00:a"])
def test_a_cursor_that_is_none_means_the_beginning(cursor: str) -> None:
    assert Passed.parse(cursor) == Passed()


def test_a_cursor_of_an_older_package_knows_no_digest() -> None:
    place = Passed.parse("8:x:y")
    assert place == Passed(8, None, "x:y")
    walked = Walked("images")
    walked.begin(place)
    walked.add(b"z")
    assert walked.listed is None
    assert walked.at("z").cursor == "9:z"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["/data/a.tar", "/data/b.tar"], ["s3://bucket/x/y/a.tar", "s3://bucket/x/y/b.tar"]),
        (["/data/1/a b.tar", "/data/2/a b.tar"], ["https://h/z/1/a%20b.tar?sig=1", "https://h/z/2/a%20b.tar?sig=2"]),
        (["/data/a.tar"], ["http://user@host:81/b/c/a.tar"]),
    ],
)
def test_shards_are_called_the_same_wherever_they_lie(one: list[str], other: list[str]) -> None:
    names = [names_of([Shard(address) for address in addresses]) for addresses in (one, other)]
    assert names[0] == names[1]
    assert len(set(names[0])) == len(one)


def test_a_name_that_is_no_text_can_be_digested() -> None:
    assert names_of([Shard("/d/\udcff.tar"), Shard("https://h/\ud800.tar")]) == [b"d/\\xff.tar", b"\\ud800.tar"]


class Shards:
    """Shards in a folder, and a state in the middle of them."""

    def __init__(self, root: Path) -> None:
        self.old, self.new = root / "old", root / "new"
        for folder in (self.old, self.new):
            folder.mkdir()
            write_shards(folder, [4, 4, 4])
        self.resume, _ = stopped(shard_config(self.old / "*.tar"), [0, 1, 2, 3, 4])

    def refusal(self, url: str | Path) -> str:
        with pytest.raises(ConfigError) as caught:
            ids(shard_config(url), self.resume)
        return str(caught.value)


@pytest.fixture
def shards(tmp_path: Path) -> Shards:
    return Shards(tmp_path)


def test_shards_that_lie_elsewhere_are_the_same(shards: Shards, server: MisbehavingServer) -> None:
    rest = ids(shard_config(shards.old / "*.tar"), shards.resume)
    assert len(rest) == 7
    assert ids(shard_config(shards.new / "{000..002}.tar"), shards.resume) == rest
    (shards.new / "list.txt").write_text("\n".join(str(path) for path in sorted(shards.new.glob("*.tar"))))
    assert ids(shard_config(f"@{shards.new}/list.txt"), shards.resume) == rest
    for number in range(3):
        server.script(f"/far/away/{number:03}.tar", Answer(body=(shards.new / f"{number:03}.tar").read_bytes()))
    assert ids(shard_config(f"{server.url}/far/away/{{000..002}}.tar?sig=a"), shards.resume) == rest


def test_other_shards_are_refused(shards: Shards) -> None:
    new = shards.new
    extra = new / "003.tar"
    extra.write_bytes((new / "002.tar").read_bytes())
    assert "1 more shards follow those of the state, the first is '003.tar'" in shards.refusal(new)
    extra.unlink()
    assert "some names or their order have changed" in shards.refusal(
        "::".join(f"{new}/{n}.tar" for n in ("001", "000", "002"))
    )
    write_shards(new, [4, 5, 4])
    assert "the 3 shards have the same names, but different lengths" in shards.refusal(new)
    (new / "001.tar").unlink()
    assert "there are 2 shards, but there were 3" in shards.refusal(new)


def test_lists_of_shards_are_held_to_their_entries(shards: Shards) -> None:
    listing = shards.new / "list.txt"
    paths = [str(path) for path in sorted(shards.new.glob("*.tar"))]
    listing.write_text("\n".join(paths))
    assert len(ids(shard_config(f"@{listing}"), shards.resume)) == 7
    listing.write_text("\n".join(paths[1:]))
    assert "there are 2 shards, but there were 3" in shards.refusal(f"@{listing}")
