"""Where a request comes from, and whether that lies in given networks.

Behind proxies that we trust it is what the outermost of them saw: `x-forwarded-for` is read from
its end, up to the first address that is no trusted proxy's. What stands before it anybody may
have written.
"""

import ipaddress
from functools import lru_cache

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def origin(peer: str, forwarded: bytes, trusted: tuple[str, ...]) -> str:
    """The client's address. What is no address is in no network."""
    if not trusted or not within(peer, trusted):
        return peer
    address = peer
    for hop in reversed(forwarded.split(b",")) if forwarded else ():
        address = _bare(hop.decode("latin-1").strip())
        if not within(address, trusted):
            break
    return address


@lru_cache(maxsize=4096)
def within(address: str, networks: tuple[str, ...]) -> bool:
    parsed = _parsed(address)
    return parsed is not None and any(parsed in network for network in _networks(networks))


def _bare(hop: str) -> str:
    """Without the port that some proxies add."""
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop


def _parsed(text: str) -> Address | None:
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    # A listener for both families sees IPv4 in IPv6's clothes.
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


@lru_cache(maxsize=1024)
def _networks(networks: tuple[str, ...]) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(one) for one in networks)
