"""Requests to addresses that strangers gave: only the public internet is reached, whatever a name resolves to.

A name is resolved once, every address of it is judged, and the connection goes to an address that was judged: a
name that answers differently the next time gains nothing. TLS still checks the certificate against the name.

    pool = outside.pool(allowed)
    async with pool.stream("POST", outside.check_url(url), ...) as response: ...

httpcore follows no redirect and reads no proxy from the environment; whoever follows one by hand checks it anew.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, Final
from urllib.parse import urlsplit

import httpcore

from contracts.errors import error
from runtime.settings import OutsideSettings

Address = IPv4Address | IPv6Address
Networks = tuple[IPv4Network | IPv6Network, ...]

URL_CHARS_MAX: Final = 2048
TRIED_MOST: Final = 3  # addresses of one name

# What is public by its number and leads elsewhere: relays and translators that carry an IPv4 address inside.
_RELAYS: Final = tuple(
    map(
        ip_network, ("192.88.99.0/24", "::/96", "64:ff9b::/96", "64:ff9b:1::/48", "2001::/23", "2002::/16", "fec0::/10")
    )
)
# What is public by its number and nobody's on the internet: protocols' own, examples, a cloud's service on the host.
_NOBODYS: Final = tuple(map(ip_network, ("192.0.0.0/24", "3fff::/20", "168.63.129.16/32")))


def networks(text: str) -> Networks:
    """`10.1.0.0/16,127.0.0.1` as networks. Raises ValueError."""
    return tuple(ip_network(part.strip()) for part in text.split(",") if part.strip())


def allowed(settings: OutsideSettings) -> Networks:
    """The networks that an operator has opened. Raises ValueError."""
    return networks(settings.outside_networks)


def may_be_reached(address: Address, open_: Networks = ()) -> bool:
    """Whether the address is public, or in a network that an operator has opened."""
    plain = (isinstance(address, IPv6Address) and address.ipv4_mapped) or address
    if any(plain in network for network in open_ if network.version == plain.version):
        return True
    relayed = any(plain in network for network in _RELAYS + _NOBODYS if network.version == plain.version)
    return plain.is_global and not plain.is_multicast and not relayed


def check_url(url: str, open_: Networks = ()) -> str:
    """The URL, if it is one that may be asked for; an address in it is judged, a name is when it is connected to.

    Raises:
        SafelightError: ADDRESS_REFUSED.
    """
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname or ""
        url.encode("ascii")
    except (ValueError, UnicodeError):
        raise error("ADDRESS_REFUSED", "This is no URL: it is written in ASCII, punycode for other letters.") from None
    if parts.scheme not in ("http", "https") or not host or port == 0 or len(url) > URL_CHARS_MAX:
        raise error("ADDRESS_REFUSED", "A URL begins with http:// or https:// and names a host.")
    if parts.username is not None or parts.password is not None:
        raise error("ADDRESS_REFUSED", "A URL may hold no user name and no password.")
    if any(ord(character) <= 0x20 or ord(character) == 0x7F for character in url):
        raise error("ADDRESS_REFUSED", "A URL holds no blanks and no control characters.")
    try:
        literal = ip_address(host.partition("%")[0])
    except ValueError:
        return url
    if not may_be_reached(literal, open_):
        raise error("ADDRESS_REFUSED")
    return url


class Guard(httpcore.AsyncNetworkBackend):
    """Opens connections to public addresses only. Raises SafelightError ADDRESS_REFUSED for any other."""

    def __init__(self, open_: Networks = ()) -> None:
        self._open = open_
        self._plain = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            async with asyncio.timeout(timeout):
                addresses = await self._judged(host, port)
        except TimeoutError as problem:
            raise httpcore.ConnectTimeout from problem
        failed: Exception = httpcore.ConnectError("the name has no address")
        for address in addresses[:TRIED_MOST]:
            try:
                return await self._plain.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as problem:
                failed = problem
        raise failed

    async def _judged(self, host: str, port: int) -> list[str]:
        """The addresses of a name. One that may not be reached condemns all: an honest name has none."""
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as problem:
            raise httpcore.ConnectError("the name has no address") from problem
        addresses = list(dict.fromkeys(str(where[0]) for *_, where in found))
        if not all(may_be_reached(ip_address(one.partition("%")[0]), self._open) for one in addresses):
            raise error("ADDRESS_REFUSED")
        return addresses


def pool(
    open_: Networks = (), *, connections_max: int = 100, tls: ssl.SSLContext | None = None
) -> httpcore.AsyncConnectionPool:
    """A pool of guarded connections. `tls`: whose certificates are believed, instead of the system's."""
    return httpcore.AsyncConnectionPool(
        ssl_context=tls or ssl.create_default_context(),
        max_connections=connections_max,
        max_keepalive_connections=20,
        keepalive_expiry=15,
        network_backend=Guard(open_),
    )
