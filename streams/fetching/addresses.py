"""Which IP addresses are of the Internet, and which lead inside.

Called by `streams.fetching.fetch` for every address before it is connected to. Pure.
"""

from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
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
_NAT64: Final = IPv6Network("64:ff9b::/96")


def is_public(address: str) -> bool:
    """Whether an IP address is one of the Internet; what embeds an IPv4 address is judged by it."""
    parsed = ip_address(address)
    if isinstance(parsed, IPv6Address):
        if parsed in _NAT64:
            return is_public(str(ip_address(parsed.packed[-4:])))
        if parsed.ipv4_mapped is not None:
            return is_public(str(parsed.ipv4_mapped))
        return parsed in _OPEN_IPV6 and not any(parsed in network for network in _CLOSED_IPV6)
    return not any(parsed in network for network in _CLOSED_IPV4)
