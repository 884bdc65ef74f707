"""Host names → connections, but never to private, loopback or link-local addresses unless the recipe allows it."""

import asyncio
import ipaddress
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpcore
import httpx

_MAPPED = ipaddress.ip_network("::ffff:0:0/96")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_SIX_TO_FOUR = ipaddress.ip_network("2002::/16")
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")  # all else of IPv6 is unassigned or of local use (RFC 4291, IANA)
_ISATAP = (0x00005EFE, 0x02005EFE)  # RFC 5214 section 6.1: then an IPv4 address follows
# Not forwarded between networks, or answered by the cloud that a machine runs in; Python takes them for global.
_RESERVED = tuple(
    map(
        ipaddress.ip_network,
        (
            "192.0.0.0/24",  # IETF protocol assignments; 192.0.0.192 is Oracle's metadata server
            "192.88.99.0/24",  # relays of 6to4, given up (RFC 7526)
            "168.63.129.16/32",  # Azure's host
            "2001::/23",  # Teredo, benchmarks, ORCHID and other protocols
            "2001:db8::/32",
            "3fff::/20",  # documentation, both
        ),
    )
)
_DEFAULT_PORTS = {"http": 80, "https": 443}


class RefusedAddressError(Exception):
    """A host that the recipe does not allow resolves to addresses that are not public."""

    def __init__(self, message: str, host: str = "") -> None:
        super().__init__(message)
        self.host = host


@dataclass(frozen=True)
class Reach:
    """Which hosts may have addresses that are not public: some on every port, some on one port only."""

    hosts: frozenset[str] = frozenset()
    origins: frozenset[tuple[str, int]] = frozenset()

    @classmethod
    def of(cls, hosts: Iterable[str] = (), origins: Iterable[tuple[str, int]] = ()) -> "Reach":
        """Hosts as people write them: brackets, capital letters and a final dot make no difference."""
        named = ((plain_host(host), port) for host, port in origins)
        return cls(frozenset(map(plain_host, hosts)), frozenset(named))

    def allows(self, host: str, port: int) -> bool:
        """Whether a host may be private. Who names http on its own port means https on its own port too."""
        host = plain_host(host)
        ports = _DEFAULT_PORTS.values() if port in _DEFAULT_PORTS.values() else (port,)
        return host in self.hosts or any((host, other) in self.origins for other in ports)


def plain_host(host: str) -> str:
    """One spelling of a host name or address."""
    return host.strip("[]").rstrip(".").lower()


def origin(address: str) -> tuple[str, int]:
    """Host and port of an http(s) address.

    Raises:
        ValueError: it has no host, or its port is no number.
    """
    parsed = urlsplit(address)
    if not parsed.hostname:
        raise ValueError("it names no host")
    return parsed.hostname, parsed.port or _DEFAULT_PORTS.get(parsed.scheme.lower(), 0)


def is_public(address: str) -> bool:
    """Whether an address is reachable from everywhere; addresses embedded in IPv6 forms are looked at too."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if any(parsed in network for network in _RESERVED if network.version == parsed.version):
        return False
    if isinstance(parsed, ipaddress.IPv6Address):
        embedded = _embedded(parsed)
        if embedded is not None and not is_public(str(embedded)):
            return False
        if parsed in _MAPPED or parsed in _NAT64:
            return True
        return parsed in _GLOBAL_UNICAST and not parsed.is_private
    return parsed.is_global and not parsed.is_multicast


def _embedded(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that packets to this one are translated to, or tunnelled to."""
    number = int(address)
    if address in _SIX_TO_FOUR:
        return ipaddress.IPv4Address(number >> 80 & 0xFFFFFFFF)
    if address in _MAPPED or address in _NAT64 or number >> 32 & 0xFFFFFFFF in _ISATAP:
        return ipaddress.IPv4Address(number & 0xFFFFFFFF)
    return None


def usable_addresses(host: str, port: int, answers: Iterable[Any], reach: Reach) -> list[str]:
    """The addresses among the answers of getaddrinfo that a connection may go to.

    Raises:
        RefusedAddressError: there is none.
    """
    addresses = list(dict.fromkeys(str(answer[4][0]) for answer in answers))
    usable = [address for address in addresses if reach.allows(host, port) or is_public(address)]
    if not usable:
        raise RefusedAddressError(f"{host} resolves to {', '.join(addresses)}", host)
    return usable


class GuardedBackend(httpcore.AsyncNetworkBackend):
    """Resolves a name once, checks the addresses, and connects to a checked one.

    The check sits where the connection is made, so neither a redirect nor a name server that changes its answer
    after a check gets round it.
    """

    def __init__(self, allowed_hosts: Iterable[str], connect_to: Mapping[str, str]) -> None:
        self._reach = Reach.of(allowed_hosts)
        self._connect_to = dict(connect_to)
        self._inner: Any = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Any = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first address that answers; the parameters are httpcore's."""
        if host in self._connect_to:
            address, _, port_text = self._connect_to[host].rpartition(":")
            addresses, port = [address], int(port_text)
        else:
            addresses = await self._checked_addresses(host, port)
        for address in addresses[:-1]:
            try:
                return await self._inner.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
        return await self._inner.connect_tcp(addresses[-1], port, timeout, local_address, socket_options)

    async def connect_unix_socket(self, path: str, timeout: float | None = None, socket_options: Any = None) -> Any:
        """Never: a crawl has no business with local sockets."""
        raise RefusedAddressError(f"unix socket {path}")

    async def sleep(self, seconds: float) -> None:
        """Wait, as httpcore asks its backend to."""
        await asyncio.sleep(seconds)

    async def _checked_addresses(self, host: str, port: int) -> list[str]:
        try:
            answers = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(f"the name {host} does not resolve: {error}") from error
        return usable_addresses(host, port, answers, self._reach)


class GuardedSyncBackend(httpcore.NetworkBackend):
    """The same for blocking connections."""

    def __init__(self, reach: Reach) -> None:
        self._reach = reach
        self._inner = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Any = None,
    ) -> httpcore.NetworkStream:
        """Connect to the first address that answers; the parameters are httpcore's."""
        try:
            answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(f"the name {host} does not resolve: {error}") from error
        addresses = usable_addresses(host, port, answers, self._reach)
        for address in addresses[:-1]:
            try:
                return self._inner.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
        return self._inner.connect_tcp(addresses[-1], port, timeout, local_address, socket_options)


class GuardedTransport(httpx.AsyncHTTPTransport):
    """httpx's transport over a connection pool with the guarded backend."""

    def __init__(self, backend: GuardedBackend, connections: int) -> None:
        super().__init__()
        # httpx offers no parameter for the network backend of its pool.
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=httpx.create_ssl_context(),
            max_connections=connections,
            max_keepalive_connections=connections,
            keepalive_expiry=15.0,
            network_backend=backend,
        )


class GuardedSyncTransport(httpx.HTTPTransport):
    """httpx's blocking transport over a connection pool with the guarded backend."""

    def __init__(self, reach: Reach) -> None:
        super().__init__()
        self._pool = httpcore.ConnectionPool(
            ssl_context=httpx.create_ssl_context(), network_backend=GuardedSyncBackend(reach)
        )
