"""Which address a request came from, behind proxies that are trusted and for headers that are not."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from attr_actors.errors import BadSettings

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

IPV6_PREFIX = 64
"""One subscriber owns a whole /64, so that it counts as one client."""


def parse_networks(text: str) -> tuple[Network, ...]:
    """Read networks separated by commas. Raises BadSettings."""
    try:
        return tuple(ipaddress.ip_network(part.strip(), strict=False) for part in text.split(",") if part.strip())
    except ValueError as exc:
        raise BadSettings(f"NVRX_ATTRSVC_TRUSTED_PROXIES: {exc}") from None


def client_address(peer: str, forwarded: Sequence[str], trusted: Sequence[Network]) -> str:
    """Return the address of the client behind ``peer``.

    ``forwarded`` are the X-Forwarded-For headers in order. Each proxy appends whom it saw; the list is read from its end,
    for as long as the one who wrote an entry is trusted. The ingress of this service runs on the same host, so that a
    loopback peer is trusted for the last entry, and for that one only.
    """
    hops = [hop.strip() for line in forwarded for hop in line.split(",")]
    client = peer
    if hops and (_is_loopback(peer) or _is_trusted(peer, trusted)):
        client = hops.pop()
        while hops and _is_trusted(client, trusted):
            client = hops.pop()
    return _as_client(client)


def _as_client(text: str) -> str:
    address = _parse(text)
    if address is None:
        return "unknown"
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, IPV6_PREFIX), strict=False))
    return str(address)


def _is_loopback(text: str) -> bool:
    address = _parse(text)
    return address is not None and address.is_loopback


def _is_trusted(text: str, trusted: Sequence[Network]) -> bool:
    address = _parse(text)
    return address is not None and any(address in network for network in trusted)


def _parse(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    bare = text.partition("]")[0].lstrip("[") if text.startswith("[") else text
    if bare.count(":") == 1:  # IPv4 with a port.
        bare = bare.partition(":")[0]
    try:
        return ipaddress.ip_address(bare)
    except ValueError:
        return None
