"""Which requests go by way of a proxy, by the settings and the environment alone; nothing is asked here."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address
from urllib.request import proxy_bypass_environment

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datago_gpu import ConfigError, LoaderConfig
from datago_gpu.config import HttpConfig
from datago_gpu.config.host_policy import ForbiddenHost, HostPolicy
from datago_gpu.config.proxies import DirectHosts, Proxies, parse_proxy

PROXY = "http://proxy.example:3128"
PASSWORD = "hunter22"


def used(environment: dict[str, str], scheme: str = "http", host: str = "data.example", **more: object) -> str:
    """The proxy that is used, with what names it; empty for none."""
    proxies = Proxies(environment=environment, **more)  # type: ignore[arg-type]
    return str(proxies.of(scheme, host, None) or "")


def test_the_environment_names_a_proxy_for_each_scheme() -> None:
    environment = {"HTTP_PROXY": PROXY, "HTTPS_PROXY": "other.example:8080", "ALL_PROXY": "http://third.example"}
    assert used(environment) == f"{PROXY} (HTTP_PROXY)"
    assert used(environment, "https") == "http://other.example:8080 (HTTPS_PROXY)"
    assert used({"ALL_PROXY": "http://third.example"}, "https") == "http://third.example (ALL_PROXY)"
    assert used({"HTTPS_PROXY": PROXY}) == ""
    assert used({}) == ""
    assert not Proxies(environment={})


def test_lower_case_goes_first_and_an_empty_value_means_none() -> None:
    assert used({"HTTP_PROXY": "http://upper.example", "http_proxy": PROXY}) == f"{PROXY} (http_proxy)"
    assert used({"HTTP_PROXY": PROXY, "http_proxy": ""}) == ""
    assert used({"HTTP_PROXY": PROXY, "NO_PROXY": "*", "no_proxy": ""}) == f"{PROXY} (HTTP_PROXY)"
    assert used({"HTTP_PROXY": PROXY, "REQUEST_METHOD": "GET"}) == "", "a header of a CGI program's client"


def test_the_setting_goes_before_the_environment() -> None:
    environment = {"HTTP_PROXY": "http://other.example", "NO_PROXY": "near.example"}
    for scheme in ("http", "https"):
        assert used(environment, scheme, proxy=PROXY) == f"{PROXY} (http_config.proxy)"
    assert used(environment, host="near.example", proxy=PROXY) == ""
    assert used(environment, host="near.example", proxy=PROXY, trust_env=False) == f"{PROXY} (http_config.proxy)"
    assert used(environment, trust_env=False) == ""


@pytest.mark.parametrize(
    ("entries", "asked_directly", "by_proxy"),
    [
        ("example.org", ["example.org", "EXAMPLE.org", "a.b.example.org", "example.org."], ["notexample.org", "org"]),
        (".example.org, *.cdn.example", ["example.org", "a.example.org", "a.cdn.example"], ["cdn.example.net"]),
        ("one.example two.example", ["one.example", "two.example"], ["three.example"]),
        ("10.0.0.0/8,192.0.2.7,2001:db8::/32", ["10.9.8.7", "192.0.2.7", "[2001:db8::5]", "::ffff:10.0.0.1"],
         ["11.0.0.1", "192.0.2.8", "[2001:db9::5]", "ten.example"]),
        ("b\N{LATIN SMALL LETTER U WITH DIAERESIS}cher.example", ["xn--bcher-kva.example"], ["bucher.example"]),
        ("*", ["any.example", "192.0.2.1", "::2"], []),
        ("", ["localhost", "a.localhost", "127.0.0.1", "127.8.8.8", "[::1]", "169.254.169.254", "fe80::1",
              "metadata.google.internal"], ["localhost.example", "192.0.2.1"]),
    ],
)  # fmt: skip
def test_hosts_that_are_asked_directly(entries: str, asked_directly: list[str], by_proxy: list[str]) -> None:
    direct = DirectHosts(entries)
    assert [host for host in asked_directly if not direct.has(host, 80)] == []
    assert [host for host in by_proxy if direct.has(host, 80)] == []


def test_an_entry_with_a_port_holds_for_that_port() -> None:
    direct = DirectHosts("example.org:8080, 10.0.0.1:443, [2001:db8::1]:8443")
    for host, port in (("example.org", 8080), ("a.example.org", 8080), ("10.0.0.1", 443), ("[2001:db8::1]", 8443)):
        assert direct.has(host, port)
        assert not direct.has(host, 80)


LABEL = st.from_regex(r"[a-z][a-z0-9]{0,3}", fullmatch=True)
NAME = st.lists(LABEL, min_size=1, max_size=4).map(".".join)


@given(st.lists(st.one_of(NAME, NAME.map(lambda name: f".{name}")), min_size=1, max_size=5), NAME)
def test_names_are_matched_as_pythons_own_client_matches_them(entries: list[str], host: str) -> None:
    text = ",".join(entries)
    if host.endswith("localhost"):
        return
    assert DirectHosts(text).has(host, 80) == bool(proxy_bypass_environment(host, {"no": text}))


@given(st.lists(st.one_of(NAME, st.just("*"), st.ip_addresses().map(str)), max_size=4), NAME)
def test_what_is_listed_for_other_clients_means_the_same(entries: list[str], host: str) -> None:
    direct = DirectHosts(",".join(entries))
    assert DirectHosts(",".join(direct.listed(80))).has(host, 80) == direct.has(host, 80)


@pytest.mark.parametrize(
    "text",
    ["socks5://proxy.example:1080", "http://", "http://proxy.example:port", "http://[::1", "ftp://proxy.example"],
)
def test_what_is_no_proxy_is_told_by_its_place_without_its_password(text: str) -> None:
    given = text.replace("://", f"://me:{PASSWORD}@")
    with pytest.raises(ConfigError, match=r"http_config\.proxy is not a valid proxy: .*http://HOST") as caught:
        HttpConfig(proxy=given)
    assert PASSWORD not in str(caught.value)
    proxies = Proxies(environment={"ALL_PROXY": given})
    assert proxies
    assert proxies.of("http", "localhost", 80) is None
    with pytest.raises(ValueError, match=r"^ALL_PROXY is not a valid proxy") as told:
        proxies.of("http", "data.example", 80)
    assert PASSWORD not in str(told.value)


@pytest.mark.parametrize("given", [f"http://me:{PASSWORD}@proxy.example", f"me:{PASSWORD}@proxy.example:3128"])
def test_the_password_is_in_no_text(given: str) -> None:
    config = LoaderConfig.load({"source_config": {}, "http_config": {"proxy": given, "max_tries": 3}})
    proxy = parse_proxy(given, "HTTP_PROXY")
    assert PASSWORD not in f"{config!r} {config.http_config!r} {proxy!r} {proxy} {proxy.__rich_repr__()}"
    assert config.http_config.__rich_repr__() == [("max_tries", 3), ("proxy", proxy.address)]
    assert config.redacted(f"{PASSWORD} and {proxy.login}") == "*** and Basic ***"
    with pytest.raises(ConfigError) as caught:
        HttpConfig(proxy=[given])  # type: ignore[arg-type]
    assert PASSWORD not in str(caught.value)


@pytest.mark.parametrize("password", ["12/hunter22", "hunter22?x", "12#hunter22", "hunter22/12"])
def test_a_password_that_is_not_encoded_is_told_and_not_shown(password: str) -> None:
    with pytest.raises(ConfigError, match=r"^http_config\.proxy is not a valid proxy") as caught:
        HttpConfig(proxy=f"http://me:{password}@proxy.example:3128")
    assert PASSWORD not in str(caught.value)
    assert "12" not in str(caught.value).replace("http://HOST", "")


def test_names_and_passwords_are_percent_decoded() -> None:
    assert parse_proxy("http://a%40b:c%3Ad@[::1]:8", "x").login == "Basic YUBiOmM6ZA=="
    assert parse_proxy("http://a%40b:c%3Ad@[::1]:8", "x").address == "http://[::1]:8"
    assert parse_proxy("https://proxy.example", "x").endpoint == ("proxy.example", 443)


def test_options_for_a_client_that_reads_the_environment_by_itself() -> None:
    environment = {"HTTP_PROXY": PROXY, "NO_PROXY": "a.example,b.example:81"}
    options = Proxies(environment=environment).client_options("http", "", 81)
    assert options["proxy_url"] == PROXY
    excludes = options["proxy_excludes"].split(",")
    assert {"a.example", "b.example", "127.0.0.0/8", "::1/128", "169.254.0.0/16"} <= set(excludes)
    assert "b.example" not in Proxies(environment=environment).client_options("http", "", 80)["proxy_excludes"]
    for none in (Proxies(environment=environment).client_options("https", "", 443),
                 Proxies(environment=environment, trust_env=False).client_options("http", "", 80)):  # fmt: skip
        assert none["proxy_excludes"] == "*,0.0.0.0/0,::/0"
    assert Proxies(environment={}).client_options("http", "", 80) == {}
    socks = Proxies(environment={"ALL_PROXY": "socks5://proxy.example:1080"})
    assert socks.client_options("http", "127.0.0.1", 9000)["proxy_excludes"] == "*,0.0.0.0/0,::/0"
    with pytest.raises(ValueError, match=r"ALL_PROXY is not a valid proxy"):
        socks.client_options("https", "", None)


def test_by_way_of_a_proxy_a_name_has_to_be_allowed_by_itself() -> None:
    """Where it leads is not seen here, so that networks say nothing about it."""
    HostPolicy(allow="10.0.0.0/8").check("inside.example")
    with pytest.raises(ForbiddenHost, match="only the proxy knows its address"):
        HostPolicy(allow="10.0.0.0/8").check("inside.example", by_proxy=True)
    HostPolicy(allow="10.0.0.0/8, inside.example").check("inside.example", by_proxy=True)
    HostPolicy(allow="10.0.0.0/8").check("10.1.2.3", by_proxy=True)
    HostPolicy().check("any.example", by_proxy=True)
    for policy in (HostPolicy(), HostPolicy(allow="*.example")):
        with pytest.raises(ForbiddenHost, match="link-local"):
            policy.check("169.254.169.254", by_proxy=True)
    with pytest.raises(ForbiddenHost, match="deny_hosts"):
        HostPolicy(deny="bad.example").check("bad.example", by_proxy=True)


@given(st.integers(0, 2**32 - 1), st.data())
def test_a_number_that_a_proxy_may_take_for_an_address_is_one(number: int, data: st.DataObject) -> None:
    address = IPv4Address(number)
    parts = [int(part) for part in str(address).split(".")]
    forms = [str(number), hex(number), f"{parts[0]}.{number & 0xFFFFFF}", ".".join(map(hex, parts)),
             ".".join(f"0{part:o}" for part in parts), f"{address}."]  # fmt: skip
    form = data.draw(st.sampled_from(forms))
    assert socket.inet_aton(form.rstrip(".")) == address.packed
    policy = HostPolicy(deny=str(address))
    with pytest.raises(ForbiddenHost, match=r"deny_hosts|link-local"):
        policy.check(form, by_proxy=True)
