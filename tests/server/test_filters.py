"""Which images each filter keeps, and how the wrong ones are refused."""

from __future__ import annotations

import pytest

from tests.server.conftest import IDS, LONG, Client

KEPT = [
    ({}, IDS),
    ({"unknown": "x"}, IDS),
    ({"sources": ""}, IDS),
    ({"sources": "a"}, ["Banana", "apple"]),
    ({"sources": "a,palm,nope"}, ["Banana", "apple", "date"]),
    ({"sources": "nope"}, []),
    ({"sources": "a, palm"}, ["Banana", "apple"]),
    ({"sources__ne": "a,b"}, ["date", "elder"]),
    ({"source": " b "}, ["cherry"]),
    ({"source__empty": "true"}, []),
    ({"source__empty": "0"}, IDS),
    ({"tags": "fruit,red"}, ["Banana", "apple", "cherry"]),
    ({"tags__all": "fruit,red"}, ["apple"]),
    ({"tags__ne": "fruit,red"}, ["date", "elder"]),
    ({"tags__ne_all": "fruit,red"}, ["Banana", "cherry", "date", "elder"]),
    ({"tags__empty": "TRUE"}, ["date", "elder"]),
    ({"tags__empty": "0"}, ["Banana", "apple", "cherry"]),
    ({"tags__empty": "maybe"}, IDS),
    ({"datasets": "food/2"}, ["Banana"]),
    ({"datasets__all": "food/1,food/2"}, ["Banana"]),
    ({"datasets__ne": "food/2"}, ["apple", "cherry", "date", "elder"]),
    ({"datasets__ne_all": "food/1,food/2"}, ["apple", "cherry", "date", "elder"]),
    ({"datasets__empty": "1"}, ["cherry", "date", "elder"]),
    ({"has_attributes": "caption,views"}, ["Banana", "apple"]),
    ({"has_attributes": "note"}, ["cherry"]),
    ({"lacks_attributes": "caption,a__b"}, ["elder"]),
    ({"has_latents": "vae"}, ["Banana", "apple"]),
    ({"has_latents": "vae,mask_fg"}, ["apple"]),
    ({"has_masks": "vae"}, ["Banana", "apple"]),
    ({"lacks_latents": "vae"}, ["cherry", "date", "elder"]),
    ({"lacks_masks": "mask_fg"}, ["Banana", "cherry", "date", "elder"]),
    ({"short_edge": "64"}, ["cherry"]),
    ({"short_edge__gt": "64"}, ["Banana", "apple"]),
    ({"short_edge__gte": " 64.0 "}, ["Banana", "apple", "cherry"]),
    ({"short_edge__lt": "50"}, ["elder"]),
    ({"pixel_count__lte": "5e3"}, ["cherry", "date", "elder"]),
    ({"pixel_count__gte": "0", "pixel_count__lt": "4097"}, ["cherry", "elder"]),
    ({"aspect_ratio": "0.75"}, ["Banana"]),
    ({"aspect_ratio__gt": "1.4"}, ["date", "elder"]),
    ({"aspect_ratio_fraction": "4:3"}, ["apple"]),
    ({"aspect_ratio_fraction__empty": "true"}, []),
    ({"duplicate_state": "None"}, ["cherry", "date", "elder"]),
    ({"duplicate_state": "1"}, ["apple"]),
    ({"duplicate_state": " 2"}, ["Banana"]),
    ({"coca_embedding__empty": "false"}, ["apple"]),
    ({"coca_embedding__empty": "true"}, ["Banana", "cherry", "date", "elder"]),
    ({"date_created__gt": "2001-01-01"}, IDS),
    ({"date_updated__lt": "2001-01-01T00:00:00+02:00"}, []),
    ({"tags": "fruit", "sources": "a", "short_edge__gte": "300", "duplicate_state": "2"}, ["Banana"]),
]


@pytest.mark.parametrize(("filters", "expected"), KEPT)
def test_filter_keeps(client: Client, filters: dict[str, str], expected: list[str]) -> None:
    assert client.ids(**filters) == expected
    assert client("images/count/", **filters).json == {"count": len(expected)}


ATTRIBUTES = [
    ("views:3", ["apple"]),
    ("views__ne:3", ["Banana", "cherry", "date", "elder"]),
    ("views__gte:3", ["Banana", "apple"]),
    ("views__gt:3,views__lt:11", ["Banana"]),
    ("views__lte:3", ["apple"]),
    ("views:3.5", []),
    ("views__lt:3.5", ["apple"]),
    ("score:2.0", ["Banana"]),
    ("score__lt:1e0", ["apple"]),
    ("ok:TRUE", ["apple"]),
    ("ok__ne:true", ["Banana", "cherry", "date", "elder"]),
    ("day:2024-01-05", ["apple"]),
    ("day:2024", ["Banana", "apple"]),
    ("day__lte:2024-01", ["apple"]),
    ("day__gt:2024-01-05", ["Banana"]),
    ("day__lt:2024-01-05", []),
    ("day__gte:1706918400000", ["Banana"]),
    ("caption:a yellow banana", ["Banana"]),
    ("caption:A yellow banana", []),
    ("caption: a yellow banana", []),
    ("caption__startswith:a yellow banana", ["Banana"]),
    ("caption__ne:a yellow banana", ["apple", "cherry", "date", "elder"]),
    ("caption__prefix:a y", ["Banana"]),
    ("caption__not_prefix:a y", ["apple", "cherry", "date", "elder"]),
    ("caption__prefix:", ["Banana", "apple"]),
    ("caption__prefix:long", []),
    (f"caption:{LONG}", []),
    (f"caption__ne:{LONG}", IDS),
    ("caption__match:APPLE yellow", ["Banana", "apple"]),
    ("caption__match:appl", []),
    ("caption__match:!?", []),
    ("caption__match:long", ["cherry"]),
    ("caption__match_phrase:red apple", ["apple"]),
    ("caption__match_phrase:apple on", ["apple"]),
    ("caption__match_phrase:apple red", []),
    ("caption__not_match:a", ["cherry", "date", "elder"]),
    ("caption__not_match_phrase:yellow banana", ["apple", "cherry", "date", "elder"]),
    ("words:Red", ["cherry"]),
    ("words__match:red", ["cherry"]),
    ("words__match_phrase:cherry red", []),
    ("words__prefix:sweet", ["cherry"]),
    ("note:", ["cherry"]),
    ("a__b__eq:x", ["date"]),
]


@pytest.mark.parametrize(("value", "expected"), ATTRIBUTES)
def test_attribute_comparator_keeps(client: Client, value: str, expected: list[str]) -> None:
    assert client.ids(attributes=value) == expected


REFUSED = [
    ({"tags": "x"}, ["One or more tags do not exist: 'x'"]),
    ({"tags": "fruit, red"}, ["One or more tags do not exist: ' red'"]),
    ({"tags__ne_all": "x,fruit,y"}, ["One or more tags do not exist: 'x','y'"]),
    ({"datasets": "food"}, ["One or more datasets do not exist: 'food'"]),
    ({"has_latents": "nope"}, ["Latent type 'nope' does not exist"]),
    ({"lacks_masks": "vae,vae"}, ["Duplicate latent type 'vae'"]),
    ({"has_attributes": "nope"}, ['Field "nope" not found in schema']),
    ({"has_attributes": "extra"}, ["Existance checks on object attributes are not supported. Attribute: extra"]),
    ({"duplicate_state": "0"}, ["Invalid value for duplicate_state: 0"]),
    ({"duplicate_state": "none"}, ["Invalid value for duplicate_state: none"]),
    ({"attributes": "views"}, ["Invalid filter value for attributes"]),
    ({"attributes": "views:1,"}, ["Invalid filter value for attributes"]),
    ({"attributes": "day:2024-01-05T10:00:00"}, ["Invalid filter value for attributes"]),
    ({"attributes": "nope:1"}, ['Field "nope" not found in schema']),
    ({"attributes": "a__b:x"}, ['Field "a" not found in schema']),
    ({"attributes": "extra:1"}, ["Attribute 'extra' is not indexed and can therefore not be used for filtering."]),
    ({"attributes": "views__match:1"}, ["Invalid comparator 'match' for attribute 'views' of type 'integer'"]),
    ({"attributes": "ok__lt:true"}, ["Invalid comparator 'lt' for attribute 'ok' of type 'boolean'"]),
    ({"attributes": "caption__gt:a"}, ["Invalid comparator 'gt' for attribute 'caption' of type 'string'"]),
    ({"attributes": "ok:yes"}, ["Invalid filter value 'yes' for attribute 'ok'"]),
    ({"partition": "0"}, ['Both "partitions_count" and "partition" parameters must be provided']),
    ({"partitions_count": "2"}, ['Both "partitions_count" and "partition" parameters must be provided']),
    ({"partitions_count": "1", "partition": "0"}, ['"partitions_count" should be between 2 and 48']),
    ({"partitions_count": "49", "partition": "0"}, ['"partitions_count" should be between 2 and 48']),
    ({"partitions_count": "4", "partition": "4"}, ['"partition" should be between 0 and 3']),
    ({"partitions_count": "4", "partition": "-1"}, ['Invalid "partition" parameter']),
    ({"partitions_count": "x", "partition": "1"}, ['Invalid "partitions_count" parameter']),
    ({"short_edge": "big"}, {"short_edge": ["Enter a number."]}),
    ({"pixel_count__gt": "nan"}, {"pixel_count__gt": ["Enter a number."]}),
    ({"date_created__gt": "today"}, {"date_created__gt": ["Enter a valid date/time."]}),
    ({"sources": "a\0"}, {"sources": ["Null characters are not allowed."]}),
]


@pytest.mark.parametrize(("filters", "body"), REFUSED)
@pytest.mark.parametrize("path", ["images/", "images/count/"])
def test_wrong_filter_is_refused_in_the_real_words(
    client: Client, path: str, filters: dict[str, str], body: object
) -> None:
    reply = client(path, **filters)
    assert (reply.status, reply.json) == (400, body)


@pytest.mark.parametrize(
    "value", ["views:abc", "views:", "score:nan", "score:1e999", "day:soon", "day:2024-13", "day:9999"]
)
def test_a_bad_number_or_date_is_a_server_error_in_html(client: Client, value: str) -> None:
    reply = client("images/", attributes=value)
    assert (reply.status, reply.headers.get_content_type()) == (500, "text/html")
    assert b"Traceback" not in reply.body


def test_a_refusal_comes_before_the_server_error(client: Client) -> None:
    assert client("images/", attributes="views:abc", tags="nope").status == 400


def test_an_empty_partition_pair_counts_as_not_given(client: Client) -> None:
    assert client.ids(partition="", partitions_count="") == IDS
