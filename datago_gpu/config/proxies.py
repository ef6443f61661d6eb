"""Decides which requests go by way of a proxy: what `http_config.proxy`, HTTP_PROXY and their like mean."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Mapping
from ipaddress import ip_network
from urllib.parse import unquote, urlsplit

from msgspec import Struct

from datago_gpu.config.host_policy import Network, address_of, ascii_name, is_within

__all__ = ["OPTION", "SETTING", "DirectHosts", "Proxies", "Proxy", "parse_proxy"]

SETTING = "http_config.proxy"
OPTION = "storage_options.proxy_url"
_PORTS = {"http": 80, "https": 443}
_SEPARATORS = re.compile(r"[,\s]+")
_WITH_PORT = re.compile(r"(\[[^\]]*\]|[^:]*):(\d{1,5})")

_ALWAYS_DIRECT = (
    *("localhost", "127.0.0.0/8", "::1/128"),
    *("169.254.0.0/16", "fe80::/10", "fd00:ec2::254/128", "metadata.google.internal"),
)
"""Addresses of this machine and of its credentials in a cloud. A proxy would resolve both to its own machine."""
_MOST_HOSTS = 10_000
"""The most hosts whose proxies are cached, since a listing may name any number of hosts."""
_EVERYTHING = ("*", "0.0.0.0/0", "::/0")


class Proxy(Struct, frozen=True):
    """Describes a proxy.

    address: such as `http://proxy.example:3128`, without name and password. place: the setting that names the proxy.

    login: the value of the header Proxy-Authorization; "" for none. given: the address with its secrets.
    """

    address: str
    place: str
    login: str = ""
    given: str = ""

    def __str__(self) -> str:
        return f"{self.address} ({self.place})"

    def __repr__(self) -> str:
        return f"Proxy({str(self)!r})"

    def __rich_repr__(self) -> list[tuple[str, str]]:
        return [("address", self.address), ("place", self.place)]

    @property
    def secrets(self) -> list[str]:
        """Returns the texts that must not be shown."""
        password = urlsplit(self.given).password or ""
        return [each for each in (self.login.removeprefix("Basic "), password, unquote(password)) if each]

    @property
    def endpoint(self) -> tuple[str, int]:
        """Returns host and port."""
        split = urlsplit(self.address)
        return split.hostname or "", split.port or _PORTS[split.scheme]

    @property
    def way_out(self) -> str:
        """Returns what the user can do if this proxy is wrong, in words."""
        if self.place == OPTION:
            return f"correct {self.place}, or add the host to proxy_excludes to access it directly"
        off = "leave it empty" if self.place == SETTING else "set http_config.trust_env to false"
        return f"correct {self.place} or {off}, or add the host to NO_PROXY to access it directly"


def parse_proxy(text: str, place: str) -> Proxy:
    """Parses the address of a proxy: `http://NAME:PASSWORD@HOST:PORT`, where only the host is required.

    place: the setting or variable that holds the address. Raises ValueError, whose text does not contain the password.
    """
    given = text.strip()
    given = given if "://" in given else f"http://{given}"
    try:
        split = urlsplit(given)
        host, port, problem = split.hostname, split.port, "the host is missing"
    except ValueError:
        host, port, problem = None, None, "the host or the port is not valid"
    else:
        if split.scheme not in _PORTS:
            host, problem = None, f"{split.scheme}:// proxies are not supported, only http:// and https://"
        elif host and not host.isprintable():
            host, problem = None, "the host contains characters that are not allowed"
        elif "@" in split.path + split.query + split.fragment:  # what stands before is a part of the password
            host, problem = None, "write / and ? and # in a password as %2F, %3F and %23"
    if not host:
        raise ValueError(f"{place} is not a valid proxy: {problem}; the form is http://HOST:PORT")
    login = ""
    if split.username is not None:
        proof = f"{unquote(split.username)}:{unquote(split.password or '')}"
        login = f"Basic {base64.b64encode(proof.encode()).decode('ascii')}"
    shown = f"[{host}]" if ":" in host else host
    return Proxy(f"{split.scheme}://{shown}" + (f":{port}" if port else ""), place, login, given)


class DirectHosts:
    """Decides which hosts are asked directly: those in NO_PROXY, and loopback and link-local addresses.

    An entry is a name ("example.org" and ".example.org" match the host and its subdomains), an address, a network
    ("10.0.0.0/8"), any of these with a port ("example.org:8080"), or "*" for every host. Names are not resolved: an
    address or a network does not match a name that resolves to it.
    """

    def __init__(self, text: str = "") -> None:
        self._names: list[tuple[str, int | None]] = []
        self._networks: list[tuple[Network, int | None]] = []
        self.everything = False
        for entry in (*filter(None, _SEPARATORS.split(text.strip().lower())), *_ALWAYS_DIRECT):
            self._add(entry)

    def _add(self, entry: str) -> None:
        if entry == "*":
            self.everything = True
            return
        host, port = entry, None
        match = _WITH_PORT.fullmatch(entry)
        if match:
            host, port = match[1], int(match[2])
        try:
            self._networks.append((ip_network(host.strip("[]"), strict=False), port))
        except ValueError:
            name = ascii_name(host.removeprefix("*").lstrip("."))
            if name:
                self._names.append((name, port))

    def has(self, host: str, port: int) -> bool:
        """Returns whether a host, as written in an address, is asked directly on this port."""
        if self.everything:
            return True
        address = address_of(host)
        if address is not None:
            return any(port == (wanted or port) and is_within(address, [each]) for each, wanted in self._networks)
        name = ascii_name(host.lower())
        return any(
            port == (wanted or port) and (name == each or name.endswith(f".{each}")) for each, wanted in self._names
        )

    def listed(self, port: int) -> list[str]:
        """Returns the names and networks that are asked directly on this port."""
        if self.everything:
            return list(_EVERYTHING)
        names = [each for each, wanted in self._names if port == (wanted or port)]
        return [*names, *(str(each) for each, wanted in self._networks if port == (wanted or port))]


class Proxies:
    """Holds the proxies of one process. Reads the environment once, when the object is made.

    proxy: the setting `http_config.proxy`, or the setting named by `place`, for http and https. It overrides the
    environment. trust_env: whether HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY count; lower-case spellings take
    precedence, as in curl. The object is false if there is no proxy. Raises ValueError if `proxy` is invalid. If a
    variable is invalid, `of` raises ValueError.
    """

    def __init__(
        self,
        proxy: str = "",
        *,
        trust_env: bool = True,
        environment: Mapping[str, str] = os.environ,
        place: str = SETTING,
    ) -> None:
        known = environment if trust_env else {}
        self.direct = DirectHosts(_variable(known, "no_proxy")[1])
        self._of_scheme: dict[str, Proxy | str] = {}
        self._found: dict[tuple[str, str, int], Proxy | None] = {}
        for scheme in _PORTS:
            given = (place, proxy) if proxy.strip() else _proxy_variable(known, scheme)
            if given[1]:
                self._of_scheme[scheme] = self._parse(*given)
        self._left_out = not trust_env and any(_proxy_variable(environment, scheme)[1] for scheme in _PORTS)

    @staticmethod
    def _parse(place: str, text: str) -> Proxy | str:
        try:
            return parse_proxy(text, place)
        except ValueError as problem:
            if place in (SETTING, OPTION):
                raise
            return str(problem)

    def __bool__(self) -> bool:
        return bool(self._of_scheme)

    def of(self, scheme: str, host: str, port: int | None) -> Proxy | None:
        """Returns the proxy for a host, or None if the host is asked directly. Raises ValueError if it is invalid."""
        key = (scheme, host, port or _PORTS[scheme])
        if key not in self._found:
            if len(self._found) >= _MOST_HOSTS:
                self._found.clear()
            direct = scheme not in self._of_scheme or self.direct.has(key[1], key[2])
            self._found[key] = None if direct else self.of_scheme(scheme)
        return self._found[key]

    def of_scheme(self, scheme: str) -> Proxy | None:
        """Returns the proxy for hosts that are not asked directly. Raises ValueError if it is invalid."""
        found = self._of_scheme.get(scheme)
        if isinstance(found, str):
            raise ValueError(found)
        return found

    @property
    def all(self) -> list[Proxy]:
        """Returns the valid proxies."""
        return [each for each in self._of_scheme.values() if isinstance(each, Proxy)]

    def client_options(self, scheme: str, host: str, port: int | None) -> dict[str, str]:
        """Returns the same decision as options of obstore, which would otherwise read the environment by itself.

        host: the host of the endpoint, "" if unknown. Raises ValueError if a proxy is needed and invalid.
        """
        try:
            proxy = self.of_scheme(scheme)
        except ValueError:
            if not self.direct.has(host, port or _PORTS[scheme]):
                raise
            proxy = None
        if proxy is not None:
            return {"proxy_url": proxy.given, "proxy_excludes": ",".join(self.direct.listed(port or _PORTS[scheme]))}
        if self._of_scheme or self._left_out:  # obstore must not use the environment
            return {"proxy_url": "http://127.0.0.1:9", "proxy_excludes": ",".join(_EVERYTHING)}
        return {}


def _proxy_variable(environment: Mapping[str, str], scheme: str) -> tuple[str, str]:
    """Returns name and value of the variable with the proxy for a scheme; ("", "") if there is none."""
    name, value = _variable(environment, f"{scheme}_proxy")
    if name == "HTTP_PROXY" and "REQUEST_METHOD" in environment:  # in a CGI program a client's header sets it
        name, value = "", ""
    return (name, value) if name else _variable(environment, "all_proxy")


def _variable(environment: Mapping[str, str], name: str) -> tuple[str, str]:
    """Returns a variable's name as spelled in the environment, and its value. Lower case comes first."""
    for spelled in (name, name.upper()):
        if spelled in environment:
            return spelled, environment[spelled].strip()
    return "", ""
