"""The HTTP side of the API: authentication, content negotiation, endpoints, pages and errors, as a real Dataroom has
them for a read-only token."""

from __future__ import annotations

import asyncio
import hmac
import html
import json
import logging
import re
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote

import msgspec
from aiohttp import web

from datago_gpu.server.attribute_filter import UnanswerableFilter
from datago_gpu.server.catalogue import Index, Row, random_prefixes, usual_prefixes
from datago_gpu.server.connection import SERVER, error_text
from datago_gpu.server.media import MediaStore, UrlSigner
from datago_gpu.server.parameters import Parameters, Refused, Shape, parse_draw, parse_page, parse_shape
from datago_gpu.server.query import parse_selection

logger = logging.getLogger(__name__)

T = TypeVar("T")
Handler = Callable[[web.Request, Parameters], Awaitable[bytes]]

_HOST = re.compile(r"(?P<name>[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
_LOGIN = "<!doctype html><title>Log in</title><h1>Log in</h1><p>This is not an endpoint of the API.</p>"
_MAX_BODY_BYTES = 64 << 10
_READ_METHODS = ("GET", "HEAD", "OPTIONS")
_WRITE_METHODS = ("POST", "PUT", "PATCH", "DELETE")


class ApiError(Exception):
    """An answer that is not 200: a status and the text of its `detail`."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail


@dataclass(frozen=True, slots=True)
class Links:
    """Makes the URLs of the payloads in one answer."""

    origin: str
    signer: UrlSigner
    expires: int

    def url(self, key: str) -> str:
        return self.origin + self.signer.path(key, self.expires)


class Api:
    """The endpoints over an index.

    payload_port: the port of the payloads, when it is not the API's own. executor: runs the searches."""

    def __init__(
        self, index: Index, signer: UrlSigner, key: str, *, payload_port: int | None, executor: Executor
    ) -> None:
        self._index, self._signer, self._key = index, signer, key.encode()
        self._payload_port, self._executor = payload_port, executor

    def application(self) -> web.Application:
        """The whole site of the API's port; with the payloads, unless they have a port of their own."""
        app = _application()
        app.router.add_get("/_health/", _health)
        app.router.add_get("/login/", _login)
        for path, handler in self._endpoints().items():
            app.router.add_route("*", path, self._endpoint(handler))
        if self._payload_port is None:
            _add_payloads(app, self._index, self._signer, strict=False)
        app.router.add_route("*", "/{rest:(?s:.*)}", _to_login)
        return app

    def _endpoints(self) -> dict[str, Handler]:
        return {
            "/api/": self._root,
            "/api/images/": self._images,
            "/api/images/random/": self._random,
            "/api/images/count/": self._count,
            "/api/images/{id:[^/.]+}/": self._image,
            "/api/tags/": self._tags,
            "/api/datasets/": self._datasets,
            "/api/stats/attributes/": self._attribute_stats,
            "/api/stats/latent_types/": self._latent_stats,
            "/api/stats/image_sources/": self._source_stats,
        }

    def _endpoint(self, handler: Handler) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handle(request: web.Request) -> web.Response:
            status, as_html = 200, False
            try:
                as_html = _wants_html(request.headers.get("Accept", "*/*"))
                self._check_token(request.headers.get("Authorization", ""), request.method)
                body = await handler(request, _parameters(request))
            except ApiError as error:
                status, body = error.status, _json({"detail": error.detail})
            except Refused as refusal:
                status, body = 400, _json(refusal.body)
            except UnanswerableFilter:
                return _page(500, error_text(500))
            return _rendered(status, body, as_html)

        return handle

    def _check_token(self, header: str, method: str) -> None:
        scheme, *tokens = header.split() or [""]
        if scheme.lower() != "token":
            raise ApiError(403, "Authentication credentials were not provided.")
        if not tokens:
            raise ApiError(403, "Invalid token header. No credentials provided.")
        if len(tokens) > 1:
            raise ApiError(403, "Invalid token header. Token string should not contain spaces.")
        if not hmac.compare_digest(tokens[0].encode("utf-8", "surrogateescape"), self._key):
            raise ApiError(403, "Invalid token.")
        if method in _WRITE_METHODS:
            raise ApiError(403, "This token is read-only")
        if method not in _READ_METHODS:
            raise ApiError(405, f'Method "{method}" not allowed.')

    async def _search(self, search: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, search)

    async def _images(self, request: web.Request, parameters: Parameters) -> bytes:
        shape, page_size, cursor = parse_page(parameters)
        links = self._links(request)

        def search() -> bytes:
            selection = parse_selection(parameters, self._index.known, partitioned=True)
            rows = self._index.page(selection, shape, cursor, page_size)
            following = (
                _absolute(request, "/api/images/?" + parameters.encoded_with("cursor", rows[-1].id)) if rows else None
            )
            return _encoded_page(following, rows, shape, links)

        return await self._search(search)

    async def _random(self, request: web.Request, parameters: Parameters) -> bytes:
        shape, page_size, prefix_length, num_prefixes = parse_draw(parameters)
        links = self._links(request)

        def search() -> bytes:
            selection = parse_selection(parameters, self._index.known, partitioned=False)
            if prefix_length is None:
                prefixes = usual_prefixes(self._index.count(selection), page_size, num_prefixes)
            else:
                prefixes = random_prefixes(prefix_length, num_prefixes)
            return _encoded_page(None, self._index.draw(selection, shape, prefixes, page_size), shape, links)

        return await self._search(search)

    async def _count(self, _request: web.Request, parameters: Parameters) -> bytes:
        selection = parse_selection(parameters, self._index.known, partitioned=True)
        return _json({"count": await self._search(lambda: self._index.count(selection))})

    async def _image(self, request: web.Request, parameters: Parameters) -> bytes:
        shape = parse_shape(parameters)
        image_id = request.match_info["id"]
        row = await self._search(lambda: self._index.one(image_id, shape))
        if row is None:
            raise ApiError(404, f'OSImage with id "{image_id}" does not exist')
        return _encoded_object(row, shape, self._links(request)).encode()

    async def _root(self, request: web.Request, _: Parameters) -> bytes:
        return _json({name: _absolute(request, f"/api/{name}/") for name in ("images", "datasets", "tags")})

    async def _tags(self, _request: web.Request, _: Parameters) -> bytes:
        return _listing(
            {"id": number, "name": name, "description": "", "image_count": count}
            for number, (name, count) in enumerate(self._index.known.tags.items(), 1)
        )

    async def _datasets(self, _request: web.Request, _: Parameters) -> bytes:
        return _listing(_dataset(name, count) for name, count in self._index.known.datasets.items())

    async def _attribute_stats(self, _request: web.Request, _: Parameters) -> bytes:
        return _json([_attribute(name, *stats) for name, stats in self._index.known.attributes.items()])

    async def _latent_stats(self, _request: web.Request, _: Parameters) -> bytes:
        latent_types = self._index.known.latent_types.items()
        return _json([{"name": name, "is_mask": mask, "image_count": count} for name, (mask, count) in latent_types])

    async def _source_stats(self, _request: web.Request, _: Parameters) -> bytes:
        return _json(self._index.known.sources)

    def _links(self, request: web.Request) -> Links:
        origin = _absolute(request, "")
        if self._payload_port is not None:
            origin = f"http://{_host(request)['name']}:{self._payload_port}"
        return Links(origin, self._signer, self._signer.expiry())


def payload_application(index: Index, signer: UrlSigner) -> web.Application:
    """The site of a port that serves only payloads."""
    app = _application()
    _add_payloads(app, index, signer, strict=True)
    return app


def _application() -> web.Application:
    app = web.Application(middlewares=[_hide_failures], client_max_size=_MAX_BODY_BYTES)
    app.on_response_prepare.append(_name_server)
    return app


def _add_payloads(app: web.Application, index: Index, signer: UrlSigner, *, strict: bool) -> None:
    path = "/{key:(?s:.*)}" if strict else "/media/{key:(?s:.*)}"
    app.router.add_route("*", path, MediaStore(index.files, signer, strict=strict).handle)


async def _name_server(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers["Server"] = SERVER


@web.middleware
async def _hide_failures(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Turns an error of ours into a page that says nothing about it; the log has it."""
    try:
        return await handler(request)
    except (web.HTTPException, ConnectionError):
        raise
    except Exception:  # the outermost boundary: whatever it is, the client must not see it
        logger.exception("failed to answer %s %r", request.method, request.path)
        return _page(500, error_text(500))


async def _health(_: web.Request) -> web.Response:
    return web.Response(text="OK", content_type="text/html")


async def _login(_: web.Request) -> web.Response:
    return _page(200, _LOGIN)


async def _to_login(request: web.Request) -> web.Response:
    return web.Response(status=302, headers={"Location": "/login/?next=" + quote(request.path, errors="replace")})


def _page(status: int, text: str) -> web.Response:
    return web.Response(status=status, text=text, content_type="text/html")


def _parameters(request: web.Request) -> Parameters:
    query = request.raw_path.partition("?")[2].partition("#")[0]
    try:
        return Parameters(query)
    except ValueError as error:
        raise web.HTTPBadRequest(text=error_text(400), content_type="text/html") from error


def _wants_html(accept: str) -> bool:
    """Whether the answer is to be HTML rather than JSON: the more exact media type wins, then JSON. 406 for neither."""
    types = {part.partition(";")[0].strip().lower() for part in accept.split(",")} or {"*/*"}
    for as_json, as_html in (("application/json", "text/html"), ("application/*", "text/*"), ("*/*", "*/*")):
        if as_json in types or as_html in types:
            return as_json not in types
    raise ApiError(406, "Could not satisfy the request Accept header.")


def _rendered(status: int, body: bytes, as_html: bool) -> web.Response:
    headers = {"Allow": ", ".join(_READ_METHODS), "Vary": "Accept, Host, X-Forwarded-Proto"}
    if as_html:
        text = f"<!doctype html><title>Dataroom</title><pre>{html.escape(body.decode())}</pre>"
        return web.Response(status=status, text=text, content_type="text/html", headers=headers)
    return web.Response(status=status, body=body, content_type="application/json", headers=headers)


def _host(request: web.Request) -> re.Match[str]:
    match = _HOST.fullmatch(request.host)
    if match is None:
        raise web.HTTPBadRequest(text=error_text(400), content_type="text/html")
    return match


def _absolute(request: web.Request, path: str) -> str:
    scheme = "https" if request.headers.get("X-Forwarded-Proto") == "https" else "http"
    return f"{scheme}://{_host(request)[0]}{path}"


def _json(value: Any) -> bytes:
    return msgspec.json.encode(value)


def _listing(results: Iterable[dict[str, Any]]) -> bytes:
    return _json({"next": None, "previous": None, "results": list(results)})


def _dataset(slug_version: str, count: int) -> dict[str, Any]:
    slug, _, version = slug_version.rpartition("/")
    return {"slug_version": slug_version, "slug": slug, "version": int(version), "name": slug, "image_count": count}


def _attribute(name: str, kind: str, count: int) -> dict[str, Any]:
    is_date = kind in ("date", "date-time")
    return {
        "name": name,
        "field_type": "string" if is_date else kind,
        "string_format": kind if is_date else None,
        "is_enabled": True,
        "is_indexed": kind != "object",
        "image_count": count,
    }


def _encoded_page(following: str | None, rows: list[Row], shape: Shape, links: Links) -> bytes:
    results = ",".join([_encoded_object(row, shape, links) for row in rows])
    return f'{{"next":{json.dumps(following)},"results":[{results}]}}'.encode()


def _encoded_object(row: Row, shape: Shape, links: Links) -> str:
    # URLs and latent types hold no character that JSON would escape.
    parts = [row.static_json]
    if "image_direct_url" in shape.fields or "image" in shape.fields:
        url = links.url(row.media_key)
        parts += [f'"{name}":"{url}"' for name in ("image", "image_direct_url") if name in shape.fields]
    if "latents" in shape.fields:
        parts.append(f'"latents":{_encoded_latents(row, shape, links)}')
    return f"{{{','.join(parts)}}}"


def _encoded_latents(row: Row, shape: Shape, links: Links) -> str:
    wanted = [latent for latent in row.latents if shape.return_latents is None or latent[0] in shape.return_latents]
    return _json(
        [{"latent_type": name, "file_direct_url": links.url(key), "is_mask": bool(mask)} for name, key, mask in wanted]
    ).decode()
