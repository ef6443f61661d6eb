"""Decides which hosts may be asked: what `http_config.allow_hosts` and `http_config.deny_hosts` mean."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

__all__ = ["ForbiddenHost", "HostPolicy", "Network", "address_of", "ascii_name", "is_within"]

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_REFUSED_BY_DEFAULT: tuple[Network, ...] = (
    IPv4Network("169.254.0.0/16"),  # link-local: AWS, Google, Azure and others keep a machine's credentials there
    IPv6Network("fe80::/10"),  # link-local
    IPv6Network("fd00:ec2::254/128"),  # AWS, over IPv6
    IPv4Network("100.100.100.200/32"),  # Alibaba
)
_NAT64 = IPv6Network("64:ff9b::/96")
_LIKE_A_NUMBER = re.compile(r"[0-9a-fx.]*[0-9a-f]", re.IGNORECASE)
_NAME = re.compile(r"(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*")
_REMEMBERED = 1000
"""Hosts that a policy remembers as allowed: a check takes 3 to 6 us, which is much for a small payload."""


class ForbiddenHost(Exception):
    """Raised if the policy refuses a host. The text names the host and the reason."""


class HostPolicy:
    """Allows or refuses hosts, by name and by the addresses that the name resolves to.

    allow, deny: comma-separated names ("example.org"), names with all names below them ("*.example.org"), addresses and
    networks ("10.0.0.0/8"). Without `allow` every host is allowed, but for `deny` and for link-local addresses, where
    clouds keep credentials: those are allowed only by a network in `allow`. With `allow` nothing else is allowed.
    Raises ValueError for an entry that is none of these.
    """

    def __init__(self, allow: str = "", deny: str = "") -> None:
        self._allowed_names, self._allowed_networks = _parse(allow)
        self._denied_names, self._denied_networks = _parse(deny)
        self._everything = not (self._allowed_names or self._allowed_networks)
        self._remembered: set[tuple[str, bool]] = set()

    def check(self, host: str, *, by_proxy: bool = False) -> None:
        """Checks the host of an address. Raises ForbiddenHost. A name is checked again when it is resolved.

        by_proxy: the name is resolved by a proxy, so that nothing here sees where it leads. Then a name has to be
        allowed by itself, and a number that a proxy may take for an address ("0x7f000001") is one.
        """
        if (host, by_proxy) in self._remembered:
            return
        number = _number_as_address(host) if by_proxy else None
        if number or address_of(host) is not None:
            self.permitted_addresses(host, [number or host])
        elif _matches(host, self._denied_names):
            raise ForbiddenHost(f"{host} is in http_config.deny_hosts")
        elif not (self._everything or (self._allowed_networks and not by_proxy) or _matches(host, self._allowed_names)):
            why = "; only the proxy knows its address" if by_proxy and self._allowed_networks else ""
            raise ForbiddenHost(f"{host} is not in http_config.allow_hosts{why}")
        if len(self._remembered) < _REMEMBERED:
            self._remembered.add((host, by_proxy))

    def permitted_addresses(self, host: str, addresses: Iterable[str]) -> list[str]:
        """Returns the permitted addresses of `host`. Raises ForbiddenHost if there are none."""
        by_name = self._everything or _matches(host, self._allowed_names)
        found, refused = [], ""
        for text in addresses:
            refusal = self._refusal(text, by_name=by_name)
            if refusal:
                refused = refused or (f"{host}: {refusal}" if text == host else f"{host} resolves to {text}: {refusal}")
            else:
                found.append(text)
        if refused and not found:
            raise ForbiddenHost(refused)
        return found

    def _refusal(self, text: str, *, by_name: bool) -> str:
        """Returns why an address is refused; "" if it is permitted."""
        address = address_of(text)
        if address is None:
            return "not an IP address"
        if is_within(address, self._denied_networks):
            return "the address is in http_config.deny_hosts"
        if is_within(address, self._allowed_networks):
            return ""
        if is_within(address, _REFUSED_BY_DEFAULT):
            return "link-local addresses are refused unless http_config.allow_hosts lists them"
        return "" if by_name else "the address is not in http_config.allow_hosts"


def _parse(entries: str) -> tuple[list[str], list[Network]]:
    names, networks = [], []
    for entry in filter(None, (each.strip().lower() for each in entries.split(","))):
        try:
            networks.append(ip_network(entry.strip("[]"), strict=False))
            continue
        except ValueError:
            pass
        name = ascii_name(entry)
        if not _NAME.fullmatch(name) or name.replace(".", "").isdigit():
            raise ValueError(f"{entry!r} is not a host name, such as 'example.org' or '*.example.org', nor an "
                             "address or network, such as '10.0.0.0/8'")  # fmt: skip
        names.append(name)
    return names, networks


def ascii_name(name: str) -> str:
    """Returns a name in the form that addresses use: without a final dot, and with non-ASCII letters encoded."""
    name = name.rstrip(".")
    try:
        return name if name.isascii() else name.encode("idna").decode("ascii")
    except UnicodeError:
        return name


def _matches(host: str, names: list[str]) -> bool:
    host = ascii_name(host.lower())
    return any(host.endswith(name[1:]) if name.startswith("*.") else host == name for name in names)


def address_of(host: str) -> Address | None:
    """Parses `host` as an address; None if it is a name. An IPv4 address inside an IPv6 address counts as IPv4."""
    try:
        address = ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped:
            return address.ipv4_mapped
        if address in _NAT64:
            return IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def _number_as_address(host: str) -> str | None:
    """Parses numbers that a resolver takes for an IPv4 address, such as "2130706433", "0x7f.1" or "0177.0.0.1"."""
    if not _LIKE_A_NUMBER.fullmatch(host.rstrip(".")):
        return None
    try:
        return socket.inet_ntoa(socket.inet_aton(host.rstrip(".")))
    except OSError:
        return None


def is_within(address: Address, networks: Iterable[Network]) -> bool:
    return any(address in network for network in networks)
