"""Pages, fields, random draws, authentication and errors."""

from __future__ import annotations

import re
import socket
from urllib.parse import parse_qs, urlsplit

import pytest

from datago_gpu.server.catalogue import usual_prefixes
from tests.server.conftest import IDS, Client, request

# fmt: off
DEFAULT = {
    "id", "source", "image_direct_url", "date_created", "date_updated", "author", "image_hash", "width", "height",
    "short_edge", "pixel_count", "aspect_ratio", "aspect_ratio_fraction", "original_url", "tags", "attributes",
    "datasets",
}
OTHERS = {
    "image", "thumbnail", "thumbnail_direct_url", "thumbnail_error", "coca_embedding", "latents", "duplicate_state",
    "related_images",
}
# fmt: on


def test_an_image_has_the_fields_of_the_contract(client: Client) -> None:
    image = client("images/apple/", all_fields="true").json
    assert image.keys() == DEFAULT | OTHERS
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", image["image_hash"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00", image["date_created"])
    known = {
        "source": "a",
        "width": 400,
        "height": 300,
        "short_edge": 300,
        "pixel_count": 120000,
        "aspect_ratio": 400 / 300,
        "aspect_ratio_fraction": "4:3",
        "tags": ["fruit", "red"],
        "datasets": ["food/1"],
        "duplicate_state": 1,
        "related_images": {},
        "coca_embedding": {"vector": [0.6, 0.8], "author": "datago-gpu"},
        "thumbnail": None,
        "original_url": None,
    }
    assert {name: image[name] for name in known} == known
    assert image["attributes"]["day"] == "2024-01-05"


@pytest.mark.parametrize(
    ("parameters", "fields"),
    [
        ({}, DEFAULT),
        ({"fields": ""}, DEFAULT),
        ({"fields": "bogus"}, {"id"}),
        ({"fields": "width,height,width,bogus", "all_fields": "true"}, {"id", "width", "height"}),
        ({"fields": "width, height"}, {"id", "width"}),
        ({"all_fields": "1"}, DEFAULT | OTHERS),
        ({"all_fields": "false"}, DEFAULT),
        ({"include_fields": "latents,bogus"}, DEFAULT | {"latents"}),
        ({"exclude_fields": "id,tags"}, DEFAULT - {"tags"}),
        ({"include_fields": "latents", "exclude_fields": "latents"}, DEFAULT),
    ],
)
@pytest.mark.parametrize("path", ["images/", "images/random/", "images/apple/"])
def test_field_parameters(client: Client, path: str, parameters: dict[str, str], fields: set[str]) -> None:
    answer = client(path, prefix_length=1, num_prefixes=300, **parameters).json
    for image in answer.get("results", [answer]):
        assert image.keys() == fields


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [("", {"vae", "mask_fg"}), ("vae", {"vae"}), ("mask_fg,", {"mask_fg"}), ("nope,", set()), (",", set())],
)
def test_return_latents_keeps_only_these(client: Client, wanted: str, expected: set[str]) -> None:
    image = client("images/apple/", fields="latents", return_latents=wanted).json
    assert {latent["latent_type"] for latent in image["latents"]} == expected
    assert {latent["latent_type"]: latent["is_mask"] for latent in image["latents"]}.get("mask_fg", True) is True


def test_a_walk_ends_with_an_empty_page(client: Client) -> None:
    url: str | None = f"{client.server.url}images/?page_size=2&fields=id&sources=a,b,palm&x=%2B%20y"
    seen, pages = [], 0
    while url:
        page = request(url, headers={"Authorization": f"Token {client.server.key}"}).json
        assert page.keys() == {"next", "results"}
        seen += [image["id"] for image in page["results"]]
        url, pages = page["next"], pages + 1
        if url:
            assert url.startswith(client.server.url + "images/?")
            query = parse_qs(urlsplit(url).query)
            assert (query["cursor"], query["sources"], query["x"]) == ([seen[-1]], ["a,b,palm"], ["+ y"])
    assert (seen, pages) == (["Banana", "apple", "cherry", "date"], 3)


def test_the_last_page_with_images_has_a_next(client: Client) -> None:
    assert client("images/", page_size=2000).json["next"] is not None
    assert client("images/", cursor="zzz").json == {"next": None, "results": []}


def test_a_cursor_may_be_an_id_that_does_not_exist(client: Client) -> None:
    assert client.ids(cursor="b") == ["cherry", "date", "elder"]


def test_next_follows_the_requests_host_and_forwarded_scheme(client: Client) -> None:
    reply = client("images/", headers={"Host": "rooms.example:81", "X-Forwarded-Proto": "https"}, page_size=1)
    assert reply.json["next"].startswith("https://rooms.example:81/api/images/?")
    assert reply.json["results"][0]["image_direct_url"].startswith("https://rooms.example:81/media/")


@pytest.mark.parametrize("host", ["a b", "evil/@x", "x:1:2", "<script>", "é"])
def test_a_senseless_host_is_refused(client: Client, host: str) -> None:
    target = urlsplit(client.server.url)
    with socket.create_connection((target.hostname, target.port), timeout=10) as connection:
        connection.sendall(
            f"GET /api/images/ HTTP/1.1\r\nHost: {host}\r\nAuthorization: Token {client.server.key}\r\n"
            "Connection: close\r\n\r\n".encode()
        )
        assert connection.makefile("rb").readline().startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize(
    ("parameters", "body"),
    [
        ({"page_size": "0"}, {"page_size": ["Ensure this value is greater than or equal to 1."]}),
        ({"page_size": "2001"}, {"page_size": ["Ensure this value is less than or equal to 2000."]}),
        ({"page_size": "many"}, {"page_size": ["A valid integer is required."]}),
        ({"all_fields": "perhaps"}, {"all_fields": ["Must be a valid boolean."]}),
        ({"cursor": "\0"}, {"cursor": ["Null characters are not allowed."]}),
    ],
)
def test_a_wrong_page_parameter_is_refused(client: Client, parameters: dict[str, str], body: object) -> None:
    reply = client("images/", **parameters)
    assert (reply.status, reply.json) == (400, body)


@pytest.mark.parametrize("name", ["prefix_length", "num_prefixes"])
@pytest.mark.parametrize("value", ["0", "301", "x"])
def test_a_wrong_draw_parameter_is_refused(client: Client, name: str, value: str) -> None:
    reply = client("images/random/", **{name: value})
    assert (reply.status, list(reply.json)) == (400, [name])


def test_a_wide_draw_is_everything_and_has_no_next(client: Client) -> None:
    reply = client("images/random/", prefix_length=1, num_prefixes=300, cursor="zzz", partition="9", fields="id")
    assert reply.json["next"] is None
    assert sorted(image["id"] for image in reply.json["results"]) == IDS


def test_a_draw_takes_filters_and_page_size(client: Client) -> None:
    wide = {"prefix_length": 1, "num_prefixes": 300}
    assert sorted(client.ids("images/random/", tags="fruit", **wide)) == ["Banana", "apple"]
    assert len(client.ids("images/random/", page_size=2, **wide)) == 2


def test_by_default_a_draw_suits_the_images_that_are_selected(client: Client) -> None:
    assert sorted(client.ids("images/random/")) == IDS
    assert sorted(client.ids("images/random/", tags="fruit")) == ["Banana", "apple"]
    assert len(client.ids("images/random/", page_size=2)) == 2


def test_a_draw_by_default_about_fills_a_page_and_is_never_narrower_than_in_a_dataroom() -> None:
    for images, length in [(0, 1), (24, 1), (1000, 1), (2000, 2), (20_000, 3), (10**6, 4), (10**8, 5), (10**9, 5)]:
        prefixes = usual_prefixes(images, 100, 100)
        assert {len(prefix) for prefix in prefixes} == {length}, images
        assert len(set(prefixes)) == len(prefixes) == min(100, 16**length)
    assert [len(prefix) for prefix in usual_prefixes(10**6, 100, 1)] == [2]


def test_a_narrow_draw_from_a_small_source_is_empty(client: Client) -> None:
    assert client.ids("images/random/", prefix_length=64) == []


@pytest.mark.parametrize(
    ("header", "detail"),
    [
        (None, "Authentication credentials were not provided."),
        ("Bearer {key}", "Authentication credentials were not provided."),
        ("{key}", "Authentication credentials were not provided."),
        ("Token", "Invalid token header. No credentials provided."),
        ("Token {key} x", "Invalid token header. Token string should not contain spaces."),
        ("Token {key}0", "Invalid token."),
        ("Token \u00e9", "Invalid token."),
    ],
)
def test_without_the_token_it_is_403(client: Client, header: str | None, detail: str) -> None:
    headers = {"Authorization": header.format(key=client.server.key)} if header else {}
    for path in ("images/", "images/count/", "images/apple/", "images/random/", "tags/"):
        reply = request(client.server.url + path, headers=headers)
        assert (reply.status, reply.json) == (403, {"detail": detail})
        assert "WWW-Authenticate" not in reply.headers


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_the_token_cannot_write(client: Client, method: str) -> None:
    reply = client("images/", method=method)
    assert (reply.status, reply.json) == (403, {"detail": "This token is read-only"})


def test_an_unknown_method_is_405(client: Client) -> None:
    reply = client("images/", method="PURGE")
    assert (reply.status, reply.json) == (405, {"detail": 'Method "PURGE" not allowed.'})


def test_head_has_no_body(client: Client) -> None:
    reply = client("images/", method="HEAD")
    assert (reply.status, reply.body) == (200, b"")


@pytest.mark.parametrize(
    ("accept", "status", "kind"),
    [
        ("*/*", 200, "application/json"),
        ("application/*;q=0.1", 200, "application/json"),
        ("text/html,*/*;q=0.8", 200, "text/html"),
        ("text/html, application/json", 200, "application/json"),
        ("image/png", 406, "application/json"),
    ],
)
def test_the_answer_is_of_an_accepted_type(client: Client, accept: str, status: int, kind: str) -> None:
    reply = client("images/", headers={"Accept": accept})
    assert (reply.status, reply.headers.get_content_type()) == (status, kind)


@pytest.mark.parametrize(
    "path", ["images", "api/nope/", "api/images", "api/images/a.b/", "images/", "api//images/", ""]
)
def test_what_is_no_endpoint_leads_to_the_login_page(client: Client, path: str) -> None:
    root = client.server.url.removesuffix("api/")
    reply = request(root + path)
    assert reply.status == 302
    assert reply.headers["Location"].startswith("/login/?next=/")
    login = request(root + reply.headers["Location"].removeprefix("/"))
    assert (login.status, login.headers.get_content_type()) == (200, "text/html")


def test_an_unknown_id_is_404(client: Client) -> None:
    reply = client("images/nope/")
    assert (reply.status, reply.json) == (404, {"detail": 'OSImage with id "nope" does not exist'})


def test_health_needs_no_token(client: Client) -> None:
    reply = request(client.server.url.removesuffix("api/") + "_health/")
    assert (reply.status, reply.body) == (200, b"OK")


def test_the_names_that_filters_may_use_are_listed(client: Client) -> None:
    assert [tag["name"] for tag in client("tags/").json["results"]] == ["fruit", "red"]
    assert [dataset["slug_version"] for dataset in client("datasets/").json["results"]] == ["food/1", "food/2"]
    types = {field["name"]: field["field_type"] for field in client("stats/attributes/").json}
    assert types == {
        "caption": "string", "views": "integer", "score": "number", "ok": "boolean", "day": "string",
        "words": "string", "note": "string", "extra": "object", "a__b": "string",
    }  # fmt: skip
    assert [latent["name"] for latent in client("stats/latent_types/").json] == ["vae", "mask_fg"]
    assert client("stats/image_sources/").json == {"a": 2, "b": 1, "palm": 1, client.server.root.rsplit("/", 1)[1]: 1}


def test_too_long_a_request_is_refused(client: Client) -> None:
    assert request(client.server.url + "images/?x=" + "y" * 20000).status == 400
    assert client("images/", headers={"X-Long": "y" * 20000}).status == 400


def test_too_many_parameters_are_refused(client: Client) -> None:
    assert client("images/?" + "&" * 10 + "&".join(["x=1"] * 1001)).status == 400


def test_a_filter_of_many_parts_is_answered(client: Client) -> None:
    parts = ",".join(["views__lt:99"] * 550)
    assert [image["id"] for image in client(f"images/?fields=id&attributes={parts}").json["results"]] == [
        "Banana",
        "apple",
    ]
    sources = ",".join(["a"] * 3000)
    assert client(f"images/count/?sources={sources}").json == {"count": 2}
