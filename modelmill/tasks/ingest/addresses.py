"""Host names → connections, but never to private, loopback or link-local addresses unless the recipe allows it."""

import asyncio
import ipaddress
import socket
from collections.abc import Iterable, Mapping
from typing import Any

import httpcore
import httpx

_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class RefusedAddressError(Exception):
    """A host that the recipe does not allow resolves to addresses that are not public."""


class GuardedBackend(httpcore.AsyncNetworkBackend):
    """Resolves a name once, checks the addresses, and connects to a checked one.

    The check sits where the connection is made, so neither a redirect nor a name server that changes its answer
    after a check gets round it.
    """

    def __init__(self, allowed_hosts: Iterable[str], connect_to: Mapping[str, str]) -> None:
        self._allowed = frozenset(allowed_hosts)
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
        addresses = list(dict.fromkeys(str(answer[4][0]) for answer in answers))
        usable = addresses if host in self._allowed else [address for address in addresses if is_public(address)]
        if not usable:
            raise RefusedAddressError(f"{host} resolves to {', '.join(addresses)}")
        return usable


def is_public(address: str) -> bool:
    """Whether an address is reachable from everywhere; addresses embedded in IPv6 forms are looked at too."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address):
        embedded = parsed.ipv4_mapped or parsed.sixtofour or (parsed.teredo or (None, None))[1]
        if parsed in _NAT64:
            embedded = ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)
        if embedded is not None:
            return is_public(str(embedded))
    return parsed.is_global and not parsed.is_multicast


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
