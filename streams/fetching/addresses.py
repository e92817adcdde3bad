"""Which IP addresses are of the Internet, which are of our own network, and which of neither.

Called by `streams.fetching.fetch` for every address before it is connected to. Pure.
"""

from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Final

# IANA's special-purpose registries (RFC 6890), multicast and 240/4; not Python's `is_global`,
# which differs between its versions. The last is Azure's metadata service.
_CLOSED_IPV4: Final = tuple(
    IPv4Network(network)
    for network in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16"),
        *("172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16"),
        *("198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/3"),
        "168.63.129.16/32",
    )
)
# All that is assigned for global use lies in 2000::/3; of that: Teredo and other protocols,
# documentation, 6to4 (which embeds any IPv4 address).
_OPEN_IPV6: Final = IPv6Network("2000::/3")
_CLOSED_IPV6: Final = tuple(
    IPv6Network(network) for network in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")
)
# RFC 1918, RFC 6598, RFC 4193 and the machine itself: what an operator may open for his own hosts.
_PRIVATE: Final = tuple(
    ip_network(network)
    for network in (
        *("10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"),
        *("::1/128", "fc00::/7"),
    )
)
# Those among them where a cloud hands out credentials: Alibaba, Amazon, Google.
_METADATA: Final = frozenset(
    ip_address(address) for address in ("100.100.100.200", "fd00:ec2::254", "fd20:ce::254")
)
_NAT64: Final = IPv6Network("64:ff9b::/96")


def is_public(address: str) -> bool:
    """Whether an IP address is one of the Internet; what embeds an IPv4 address is judged by it."""
    parsed = _unwrapped(address)
    if isinstance(parsed, IPv6Address):
        return parsed in _OPEN_IPV6 and not any(parsed in network for network in _CLOSED_IPV6)
    return not any(parsed in network for network in _CLOSED_IPV4)


def is_private(address: str) -> bool:
    """Whether an IP address is of an own network, and no cloud's metadata service; as above."""
    parsed = _unwrapped(address)
    return parsed not in _METADATA and any(parsed in network for network in _PRIVATE)


def _unwrapped(address: str) -> IPv4Address | IPv6Address:
    parsed = ip_address(address.partition("%")[0])
    if isinstance(parsed, IPv6Address):
        if parsed in _NAT64:
            return ip_address(parsed.packed[-4:])
        return parsed.ipv4_mapped or parsed
    return parsed
