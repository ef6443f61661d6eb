"""The whole way by a proxy on loopback: its own names, CONNECT, passwords, refusals, and how all of that is told."""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
import trustme

from datago_gpu import Loader, LoaderConfig, SourceError
from datago_gpu.config import HttpConfig
from datago_gpu.doctor import network, source_trial
from datago_gpu.sources.http.failure import DOWN_AFTER, HttpFailure
from datago_gpu.sources.http.http_client import HttpClient
from datago_gpu.sources.object_store.stores import Stores
from tests.end_to_end.test_bad_network import BODY, COUNT, HASTY, Store, config, mischief
from tests.support.listing import KEY, Listing, names
from tests.support.proxies import ForwardProxy
from tests.support.servers import Answer, MisbehavingServer, Request
from tests.support.shards import keys, pictures, tar_bytes

try:
    import uvloop
except ImportError:
    uvloop = None  # type: ignore[assignment]

HOST = "data.invalid"
LOGIN, GIVEN = "me:p\N{LATIN SMALL LETTER U WITH DIAERESIS}ss w:rd", "me:p%C3%BCss%20w%3Ard"
PASSWORD = "hunter22"
QUICK: dict[str, Any] = {"max_tries": 2, "max_backoff_s": 0.02, "stall_timeout_s": 0.3, "connect_timeout_s": 0.3}
Tls = Callable[[str], ssl.SSLContext]


@pytest.fixture
def tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tls:
    """What a server with a name needs, by an authority that the client trusts."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))

    def context(name: str) -> ssl.SSLContext:
        made = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert(name).configure_cert(made)
        return made

    return context


@pytest.fixture
def server() -> Iterator[MisbehavingServer]:
    with MisbehavingServer() as running:
        running.script("/a", Answer(200, b"body"))
        yield running


def ask(url: str, proxy: str = "", *, plain: bool = False, **more: Any) -> bytes:
    async def main() -> bytes:
        async with HttpClient(HttpConfig(**{**QUICK, "proxy": proxy, **more})) as client:
            return (await client.get(url, max_bytes=1 << 20)).body

    with asyncio.Runner(loop_factory=None if plain or uvloop is None else uvloop.new_event_loop) as runner:
        return runner.run(main())


def failing(url: str, proxy: str = "", **more: Any) -> HttpFailure:
    with pytest.raises(HttpFailure) as caught:
        ask(url, proxy, **more)
    assert PASSWORD not in repr(caught.value)
    return caught.value


@pytest.mark.parametrize("plain", [True, False], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("proxy_tls", [False, True], ids=["http proxy", "https proxy"])
@pytest.mark.parametrize("server_tls", [False, True], ids=["http", "https"])
def test_a_host_that_only_the_proxy_knows_is_asked(tls: Tls, plain: bool, proxy_tls: bool, server_tls: bool) -> None:
    with (
        MisbehavingServer(tls=tls(HOST) if server_tls else None) as there,
        ForwardProxy({HOST: there.port}, login=LOGIN, tls=tls("127.0.0.1") if proxy_tls else None) as proxy,
    ):
        there.script("/a", Answer(200, b"body"))
        address = f"{'https' if server_tls else 'http'}://{HOST}/a?x=%2F"
        assert ask(address, proxy.url.replace("://", f"://{GIVEN}@"), plain=plain) == b"body"
        assert proxy.asked == [f"CONNECT {HOST}:443" if server_tls else f"GET {address}"]
        assert there.requests[0].query == "x=%2F"
        assert "proxy-authorization" not in there.requests[0].headers


def test_the_environment_is_used_unless_the_settings_say_no(
    server: MisbehavingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ForwardProxy({HOST: server.port, "b.invalid": server.port}) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        assert ask(f"http://{HOST}/a") == ask("http://b.invalid/a") == b"body"
        assert "name of the server cannot be resolved" in str(failing(f"http://{HOST}/a", trust_env=False))
        monkeypatch.setenv("NO_PROXY", HOST)
        assert "name of the server cannot be resolved" in str(failing(f"http://{HOST}/a"))
        assert ask("http://b.invalid/a") == b"body"
        assert ask(server.url + "/a") == b"body", "loopback addresses are asked directly"
        assert len(proxy.asked) == 3


def test_redirects_are_followed_by_way_of_the_proxy_or_directly(server: MisbehavingServer) -> None:
    server.script("/there", Answer(302, headers={"Location": f"http://{HOST}/back"}))
    server.script("/back", Answer(302, headers={"Location": f"{server.url}/a"}))
    with ForwardProxy({HOST: server.port}) as proxy:
        assert ask(f"{server.url}/there", proxy.url) == b"body"
        assert proxy.asked == [f"GET http://{HOST}/back"]


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(("login", "words"), [("", "requires name and password"),
                                              (f"me:{PASSWORD}@", "refuses name and password")])  # fmt: skip
def test_a_proxy_that_wants_another_password_is_named(scheme: str, login: str, words: str) -> None:
    with ForwardProxy(login=LOGIN) as proxy:
        failure = failing(f"{scheme}://{HOST}/a", proxy.url.replace("://", f"://{login}"))
    assert (failure.reason, failure.status, failure.tries) == ("proxy", 0, 1)
    way_out = "set http_config.proxy to http://NAME:PASSWORD@HOST:PORT"
    assert str(failure) == f"{scheme}://{HOST}/a: the proxy {proxy.url} (http_config.proxy) {words}; {way_out}"


def test_a_proxy_that_answers_401_to_a_wrong_password_is_named() -> None:
    """As tinyproxy does."""
    with ForwardProxy(answer=401) as proxy:
        given = proxy.url.replace("://", f"://me:{PASSWORD}@")
        assert f"the proxy {proxy.url} (http_config.proxy) refuses name" in str(failing(f"https://{HOST}/a", given))
        assert f"through the proxy {proxy.url}" in str(failing(f"http://{HOST}/a", given))


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_wants_another_proof_is_told_so(scheme: str) -> None:
    with ForwardProxy(login=LOGIN, scheme="NTLM") as proxy:
        failure = failing(f"{scheme}://{HOST}/a", proxy.url)
    assert "requires 'NTLM', but only Basic (name and password) is supported" in str(failure)


@pytest.mark.parametrize(("answer", "tries"), [(403, 1), (502, 2), (503, 2), (504, 2)])
def test_a_proxy_that_lets_nothing_through_is_named(answer: int, tries: int) -> None:
    with ForwardProxy(answer=answer) as proxy:
        failure = failing(f"https://{HOST}/a", proxy.url)
        assert (failure.reason, failure.status, failure.tries) == ("proxy", 0, tries)
        assert f"the proxy {proxy.url} (http_config.proxy) does not let requests through to {HOST}: {answer}" in str(
            failure
        )
        assert "add the host to NO_PROXY" in str(failure)
        failure = failing(f"http://{HOST}/a", proxy.url)
        assert (failure.reason, failure.status, failure.tries) == (f"http-{answer}", answer, tries)
        assert f"through the proxy {proxy.url} (http_config.proxy), which may have sent" in str(failure)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_cannot_be_reached_is_named(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{scheme}_proxy", f"http://me:{PASSWORD}@127.0.0.1:9")
    named = f"proxy http://127.0.0.1:9 ({scheme}_proxy)"
    failure = failing(f"{scheme}://{HOST}/a")
    assert f"cannot connect to the {named}: Connection refused; correct {scheme}_proxy or set" in str(failure)
    assert (failure.reason, failure.tries) == ("connection", 2)
    monkeypatch.setenv(f"{scheme}_proxy", f"http://me:{PASSWORD}@proxy.invalid:9")
    assert f"the name of the proxy http://proxy.invalid:9 ({scheme}_proxy) cannot be resolved" in str(
        failing(f"{scheme}://{HOST}/a")
    )


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_says_nothing_is_waited_for_no_longer_than_a_server(scheme: str) -> None:
    with ForwardProxy(silent=True) as proxy:
        failure = failing(f"{scheme}://{HOST}/a", proxy.url)
        assert (failure.reason, failure.tries) == ("timeout", 2)
        assert f"through the proxy {proxy.url}" in str(failure)


def test_a_proxy_that_cannot_prove_who_it_is_sees_nothing(tls: Tls) -> None:
    with ForwardProxy(tls=tls("other.invalid")) as proxy:
        failure = failing(f"https://{HOST}/a", proxy.url.replace("://", f"://me:{PASSWORD}@"))
        assert f"the certificate of the proxy {proxy.url} (http_config.proxy) cannot be verified" in str(failure)
        assert proxy.asked == []


def test_a_proxy_of_the_environment_that_is_none_is_told_where_it_would_be_used(
    server: MisbehavingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", f"socks5://me:{PASSWORD}@127.0.0.1:1080")
    assert "ALL_PROXY is not a valid proxy: socks5:// proxies are not supported" in str(failing(f"http://{HOST}/a"))
    assert ask(server.url + "/a") == b"body"
    server.script("/there", Answer(302, headers={"Location": f"http://{HOST}/back"}))
    assert failing(server.url + "/there").detail.startswith("ALL_PROXY is not a valid proxy")


def test_the_policy_for_hosts_holds_by_way_of_a_proxy(server: MisbehavingServer) -> None:
    """By names and by addresses as they are given. The proxy itself, which the user has named, is none of them."""
    with ForwardProxy({HOST: server.port, "localtest": server.port, "169.254.169.254": server.port}) as proxy:
        by_name = proxy.url.replace("127.0.0.1", "localhost")
        assert ask(f"http://{HOST}/a", by_name, allow_hosts=HOST) == b"body"
        for url, more in (
            (f"http://{HOST}/a", {"allow_hosts": "example.org"}),
            (f"http://{HOST}/a", {"allow_hosts": "10.0.0.0/8"}),
            (f"http://{HOST}/a", {"deny_hosts": f"*.{HOST}, {HOST}"}),
            ("http://169.254.169.254/a", {}),
            ("http://2852039166/a", {}),
            ("http://0xa9.0xfe.0xa9.0xfe/a", {}),
        ):
            assert failing(url, by_name, **more).reason == "forbidden-host"
        assert len(proxy.asked) == 1


def through(proxy: ForwardProxy, *servers: MisbehavingServer) -> dict[int, str]:
    """Names for servers that only the proxy knows."""
    known = {each.port: f"host-{number}.invalid" for number, each in enumerate(servers)}
    proxy.hosts.update({name: port for port, name in known.items()})
    return known


@pytest.fixture
def dataroom() -> Iterator[tuple[Listing, Store]]:
    with MisbehavingServer() as api, MisbehavingServer() as payloads:
        listing, store = Listing(api, names(COUNT)), Store(payloads, names(COUNT))
        yield listing, store


@pytest.mark.parametrize("processes", [0, 2], ids=["by the feeder", "by two processes"])
def test_a_bad_network_behind_a_slow_proxy_costs_only_time(
    dataroom: tuple[Listing, Store], processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a run survives directly it survives by way of a proxy: the faults of `test_bad_network`."""
    listing, store = dataroom
    with ForwardProxy(login=f"me:{PASSWORD}", slow_s=0.01) as proxy:
        known = through(proxy, listing.server, store.server)
        for name, entry in listing.entries.items():
            entry["image_direct_url"] = f"http://{known[store.server.port]}/files/{name}.jpg?signature=abc"
        listing.fault, store.fault = mischief(11, 0.3), mischief(12, 0.4)
        monkeypatch.setenv("HTTP_PROXY", proxy.url.replace("://", f"://me:{PASSWORD}@"))
        settings = config(listing, http={"download_processes": processes})
        settings["source_config"]["api_url"] = f"http://{known[listing.server.port]}/api/"
        with Loader(settings, device="cpu", backend="pillow") as loader:
            assert [name for batch in loader for name in batch.ids] == names(COUNT)
        assert loader.stats().skipped == {}
    assert any(".jpg" in line for line in proxy.asked)
    assert not any(KEY in str(request) for request in store.server.requests)


@pytest.mark.parametrize("processes", [0, 2], ids=["by the feeder", "by two processes"])
def test_a_proxy_that_fails_now_and_then_costs_only_time(
    tls: Tls, dataroom: tuple[Listing, Store], processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Payloads over https; the proxy is busy, drops connections, and cuts them in the middle."""
    listing, _ = dataroom
    random = Random(processes)

    def fault() -> str:
        return random.choice(["busy", "drop", "cut"]) if random.random() < 0.4 else ""

    with MisbehavingServer(tls=tls(HOST)) as files, ForwardProxy({HOST: files.port}, fault=fault) as proxy:
        Store(files, names(COUNT))
        for name, entry in listing.entries.items():
            entry["image_direct_url"] = f"https://{HOST}/files/{name}.jpg?signature=abc"
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        with Loader(config(listing, http={"download_processes": processes}), device="cpu", backend="pillow") as loader:
            assert [name for batch in loader for name in batch.ids] == names(COUNT)
        assert loader.stats().skipped == {}


def test_a_way_through_the_proxy_is_used_again(tls: Tls) -> None:
    with MisbehavingServer(tls=tls(HOST)) as there, ForwardProxy({HOST: there.port}, login=LOGIN) as proxy:
        there.script("/a", Answer(200, b"body"))
        given = proxy.url.replace("://", f"://{GIVEN}@")

        async def main() -> None:
            async with HttpClient(HttpConfig(**QUICK, proxy=given)) as client:
                for _ in range(20):
                    assert (await client.get(f"https://{HOST}/a", max_bytes=100)).body == b"body"

        asyncio.run(main())
        assert proxy.connections == 1


def test_shards_over_https_come_by_way_of_a_slow_proxy(tls: Tls, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = [tar_bytes((f"{name}.jpg", BODY) for name in names(COUNT)[begin::3]) for begin in range(3)]
    with MisbehavingServer(tls=tls(HOST)) as server, ForwardProxy({HOST: server.port}, slow_s=0.005) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        for number, body in enumerate(shards):
            cut = Answer(200, body, {"ETag": '"a"'}, ranges=True, cut_after=len(body) // 2)
            server.script(f"/{number}.tar", cut, Answer(200, body, {"ETag": '"a"'}, ranges=True))
        url = {"url": f"https://{HOST}/{{0..2}}.tar"}
        settings = {"source_type": "webdataset", "source_config": url, "http_config": HASTY}
        with Loader(settings, device="cpu", backend="pillow") as loader:
            assert sorted(name for batch in loader for name in batch.ids) == names(COUNT)
        assert loader.stats().skipped == {}
    assert set(proxy.asked) == {f"CONNECT {HOST}:443"}


def test_a_run_whose_proxy_is_gone_ends_and_names_it(
    dataroom: tuple[Listing, Store], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    listing, _ = dataroom
    monkeypatch.setenv("HTTP_PROXY", f"http://me:{PASSWORD}@127.0.0.1:9")
    for entry in listing.entries.values():
        entry["image_direct_url"] = f"http://{HOST}/a.jpg?signature=abc"
    caplog.set_level(logging.DEBUG)
    with (
        Loader(config(listing, http={"max_tries": 2}), device="cpu", backend="pillow") as loader,
        pytest.raises(SourceError, match=r"cannot connect to the proxy http://127\.0\.0\.1:9 \(HTTP_PROXY\)") as caught,
    ):
        list(loader)
    assert not re.search(f"{PASSWORD}|signature", f"{caught.value} {caplog.text}")


@pytest.mark.parametrize("processes", [0, 2], ids=["by the feeder", "by two processes"])
def test_a_proxy_that_is_gone_is_down_whatever_the_hosts(dataroom: tuple[Listing, Store], processes: int) -> None:
    """Each payload lies on a host of its own, so that no host has many failures."""
    listing, _ = dataroom
    for number, entry in enumerate(listing.entries.values()):
        entry["image_direct_url"] = f"http://host-{number}.invalid/a.jpg?signature=abc"
    settings = config(listing, http={"max_tries": 2, "proxy": "http://127.0.0.1:9", "download_processes": processes})
    settings["max_refused_in_a_row"] = None
    with (
        Loader(settings, device="cpu", backend="pillow") as loader,
        pytest.raises(SourceError, match=r"no other request through this proxy was answered either$"),
    ):
        list(loader)
    assert sum(loader.stats().skipped.values()) < COUNT // 2


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_an_answer_by_way_of_a_proxy_shows_that_it_is_up(tls: Tls, scheme: str) -> None:
    """Hosts that do not answer are no fault of the proxy, and a host that answers ends its row of failed tries."""
    with MisbehavingServer(tls=tls(HOST) if scheme == "https" else None) as server, ForwardProxy() as proxy:
        server.script("/a", Answer(200, b"body"))
        proxy.hosts[HOST] = server.port

        async def main() -> list[bool]:
            down = []
            async with HttpClient(HttpConfig(**QUICK | {"max_tries": 1}, proxy=proxy.url)) as client:
                for number in range(2 * DOWN_AFTER):
                    with pytest.raises(HttpFailure) as caught:
                        await client.get(f"{scheme}://host-{number}.invalid/a", max_bytes=100)
                    down.append(caught.value.down)
                assert (await client.get(f"{scheme}://{HOST}/a", max_bytes=100)).body == b"body"
            return down

        assert not any(asyncio.run(main()))


def part_of(body: bytes) -> Callable[[Request], Answer]:
    """What S3 answers to a range."""

    def answer(request: Request) -> Answer:
        first, last = map(int, request.headers["range"].removeprefix("bytes=").split("-"))
        headers = {"ETag": '"1"', "Last-Modified": "Sun, 06 Nov 1994 08:49:37 GMT"}
        headers["Content-Range"] = f"bytes {first}-{min(last, len(body) - 1)}/{len(body)}"
        return Answer(206, body[first : last + 1], headers)

    return answer


def stored(endpoint: str, **more: Any) -> list[str]:
    """The samples of a shard in a bucket at this endpoint."""
    options = {"endpoint": endpoint, "access_key_id": "k", "secret_access_key": "s", "region": "us-east-1"}
    http = {"max_tries": 1, **more.pop("http", {})}
    return keys("s3://bucket/a.tar", storage_options={**options, **more}, http=http)


def test_object_storage_follows_the_same_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [f"{number:04}" for number in range(5)]
    with MisbehavingServer() as server:
        server.route("/bucket/a.tar", part_of(tar_bytes(pictures(0, 5))))
        there = f"http://{HOST}"
        with ForwardProxy({HOST: server.port}, login=LOGIN) as proxy:
            by_proxy = proxy.url.replace("://", f"://{GIVEN}@")
            assert stored(there, http={"proxy": by_proxy}) == ids
            assert stored(there, http={"proxy": "http://127.0.0.1:9"}, proxy_url=by_proxy) == ids, (
                "obstore's own option"
            )
            monkeypatch.setenv("HTTP_PROXY", by_proxy)
            assert stored(there) == ids
            used = len(proxy.asked)
            with pytest.raises(SourceError, match="name of the store cannot be resolved"):
                stored(there, http={"trust_env": False})
            monkeypatch.setenv("NO_PROXY", "*.invalid")
            with pytest.raises(SourceError, match="name of the store cannot be resolved"):
                stored(there)
            assert len(proxy.asked) == used
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
        assert stored(server.url) == ids, "loopback addresses are asked directly"
        monkeypatch.delenv("NO_PROXY")


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_store_behind_a_proxy_that_refuses(scheme: str) -> None:
    options = {"endpoint": f"{scheme}://{HOST}", "access_key_id": "k", "secret_access_key": "s", "region": "us-east-1"}

    def failure(proxy: str) -> HttpFailure:
        async def main() -> None:
            await Stores(HttpConfig(max_tries=1, proxy=proxy), options).get("s3://bucket/a", 9)

        with pytest.raises(HttpFailure) as caught:
            asyncio.run(main())
        assert PASSWORD not in str(caught.value)
        return caught.value

    given = f"http://me:{PASSWORD}@127.0.0.1:9"
    named = r"the proxy http://127.0.0.1:\d+ \(http_config.proxy\)"
    assert re.search(f"cannot connect to {named}: Connection refused; correct", str(failure(given)))
    with ForwardProxy(login=LOGIN) as proxy:
        found = failure(proxy.url.replace("://", f"://me:{PASSWORD}@"))
        assert (found.reason, found.status) == ("proxy", 0)
        assert re.search(f"{named} refuses name and password", str(found))
    with ForwardProxy(answer=403) as proxy:
        assert re.search(f"{named}", str(failure(proxy.url)))
    options["proxy_url"] = given
    told = r"cannot connect to the proxy http://127.0.0.1:9 \(storage_options.proxy_url\): Connection refused; correct"
    assert re.search(told, str(failure("")))


def test_doctor_tells_how_each_host_is_asked(dataroom: tuple[Listing, Store], monkeypatch: pytest.MonkeyPatch) -> None:
    listing, store = dataroom
    settings = LoaderConfig.load(config(listing))
    assert network.proxy_check(settings).state == network.proxy_check(None).state == "none"
    with ForwardProxy({HOST: store.server.port}) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url.replace("://", f"://me:{PASSWORD}@"))
        assert network.proxy_check(None).found == f"http {proxy.url} (HTTP_PROXY), https directly"
        assert network.proxy_check(settings).found == "127.0.0.1 directly"
        for name, entry in listing.entries.items():
            entry["image_direct_url"] = f"http://{HOST}/files/{name}.jpg"
        found = {check.name: check for check in source_trial.checks(settings, "cpu", "pillow", 20)}
        assert found["proxy of payloads"].found == f"{HOST} through {proxy.url} (HTTP_PROXY)"
        assert {check.state for check in found.values()} == {"ok"}
        shards = {"source_type": "webdataset", "source_config": {"url": f"http://{HOST}/a.tar::s3://b/c.tar::/d.tar"}}
        monkeypatch.setenv("HTTPS_PROXY", "http://other.example")
        assert network.proxy_check(LoaderConfig.load(shards)).found == (
            f"{HOST} through {proxy.url} (HTTP_PROXY), s3.amazonaws.com through http://other.example (HTTPS_PROXY)"
        )
        shards["http_config"] = {"trust_env": False}
        assert "of the environment are not used" in network.proxy_check(LoaderConfig.load(shards)).found
    monkeypatch.setenv("HTTPS_PROXY", "socks5://other.example")
    assert network.proxy_check(None).state == "fail"
