"""Which hosts may be asked: by name, by address, behind names and redirects."""

from __future__ import annotations

import asyncio
import socket
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datago_gpu import Loader
from datago_gpu.config import HttpConfig
from datago_gpu.config.host_policy import ForbiddenHost, HostPolicy
from datago_gpu.errors import ConfigError
from datago_gpu.sources.http.failure import HttpFailure
from datago_gpu.sources.http.http_client import HttpClient
from tests.support.images import add_picture
from tests.support.servers import Answer, MisbehavingServer, json_answer

METADATA = "169.254.169.254"


def refused(policy: HostPolicy, host: str, *addresses: str) -> str:
    with pytest.raises(ForbiddenHost) as caught:
        allowed(policy, host, *addresses)
    return str(caught.value)


def allowed(policy: HostPolicy, host: str, *addresses: str) -> list[str]:
    policy.check(host)
    return policy.permitted_addresses(host, addresses or [host])


@pytest.mark.parametrize("host", [METADATA, "[fe80::1%25eth0]", "fd00:ec2::254", "::ffff:169.254.169.254",
                                  "64:ff9b::a9fe:a9fe", "100.100.100.200"])  # fmt: skip
def test_addresses_with_credentials_of_clouds_are_refused_by_default(host: str) -> None:
    assert "link-local" in refused(HostPolicy(), host)
    assert "link-local" in refused(HostPolicy(allow="example.org"), host)


@given(st.ip_addresses(v=4))
def test_by_default_every_other_address_is_allowed(address: IPv4Address) -> None:
    link_local = address.is_link_local or str(address) == "100.100.100.200"
    for text in (str(address), f"::ffff:{address}"):
        if link_local:
            refused(HostPolicy(), text)
        else:
            assert allowed(HostPolicy(), text) == [text]


def test_a_name_is_judged_by_the_addresses_that_it_resolves_to() -> None:
    assert f"innocent.example resolves to {METADATA}" in refused(HostPolicy(), "innocent.example", METADATA)
    assert allowed(HostPolicy(), "two.example", METADATA, "192.0.2.1") == ["192.0.2.1"]
    assert METADATA in refused(HostPolicy(allow="innocent.example"), "innocent.example", METADATA)
    assert allowed(HostPolicy(allow="169.254.0.0/16"), "meant.example", METADATA) == [METADATA]


def test_names_and_networks_are_allowed_and_denied() -> None:
    policy = HostPolicy(allow="example.org, *.cdn.example, 10.0.0.0/8", deny="bad.cdn.example, 10.66.0.0/16")
    assert allowed(policy, "EXAMPLE.org.", "192.0.2.1") == ["192.0.2.1"]
    assert allowed(policy, "a.b.cdn.example", "192.0.2.1")
    assert allowed(policy, "any.name", "10.1.2.3", "192.0.2.1") == ["10.1.2.3"]
    assert "deny_hosts" in refused(policy, "bad.cdn.example", "192.0.2.1")
    assert "deny_hosts" in refused(policy, "10.66.0.1")
    assert "allow_hosts" in refused(policy, "cdn.example", "192.0.2.1")  # "*." stands for the names below it
    assert "allow_hosts" in refused(policy, "192.0.2.1")
    assert "allow_hosts" in refused(HostPolicy(allow="example.org"), "notexample.org", "192.0.2.1")
    assert allowed(HostPolicy(allow="bücher.example"), "xn--bcher-kva.example", "192.0.2.1")


@pytest.mark.parametrize("entries", ["http://example.org", "exa mple.org", "10.0.0.0/33", "*", "1.2.3", "a/b", "x:80"])
def test_entries_that_mean_nothing_are_config_errors(entries: str) -> None:
    for name in ("allow_hosts", "deny_hosts"):
        with pytest.raises(ConfigError, match=rf"http_config\.{name}: '.*' is not a host name"):
            HttpConfig(**{name: entries})  # type: ignore[arg-type]


def ask(url: str, config: HttpConfig) -> bytes:
    async def main() -> bytes:
        async with HttpClient(config) as client:
            return (await client.get(url, max_bytes=1000)).body

    return asyncio.run(main())


def test_the_client_asks_no_host_that_is_refused_also_behind_a_redirect() -> None:
    with MisbehavingServer() as server:
        plain = server.script("/plain", Answer(200, b"body"))
        turned = server.script("/turned", Answer(302, headers={"Location": f"http://{METADATA}/latest/meta-data/"}))
        assert ask(plain, HttpConfig()) == b"body"
        for url, config in ((turned, HttpConfig()), (plain, HttpConfig(deny_hosts="127.0.0.0/8")),
                            (plain, HttpConfig(allow_hosts="example.org"))):  # fmt: skip
            with pytest.raises(HttpFailure) as caught:
                ask(url, config)
            assert (caught.value.reason, caught.value.tries) == ("forbidden-host", 1)
        assert (server.count("/plain"), server.count("/turned")) == (1, 1)


def test_a_name_that_resolves_to_a_refused_address_is_not_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    def lookup(_host: str, port: int, *_: object, **__: object) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (METADATA, port))]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    with pytest.raises(HttpFailure, match=f"pictures.example resolves to {METADATA}") as caught:
        ask("http://pictures.example/a.jpg", HttpConfig(max_tries=3))
    assert caught.value.tries == 1


def test_an_image_on_a_refused_host_is_skipped_and_the_others_come(tmp_path: Path) -> None:
    picture = add_picture(tmp_path / "a.jpg").read_bytes()
    with MisbehavingServer() as server:
        urls = {"good": server.script("/a.jpg", Answer(200, picture)), "odd": f"http://{METADATA}/a.jpg"}
        results = [{"id": name, "source": "s", "image_direct_url": url} for name, url in urls.items()]
        server.route("/api/images/", lambda _request: json_answer({"next": None, "results": results}))
        config = {"source_config": {"api_url": f"{server.url}/api/", "api_key": "", "check_count": False}}
        with Loader(config, device="cpu", backend="pillow") as loader:
            assert [name for batch in loader for name in batch.ids] == ["good"]
            assert loader.stats().skipped == {"forbidden-host": 1}
