"""Which network addresses the service may call for somebody else: public ones, and nothing of our own network.

What is public is the registries' word (`ipaddress`, after IANA's special-purpose registries: RFC 6890), minus multicast
and the addresses at which clouds answer their own machines. An IPv6 address that carries an IPv4 one inside is judged
by what it carries (mapped: RFC 4291; NAT64: RFC 6052); tunnels (6to4, Teredo) are refused whatever they carry.
"""

from __future__ import annotations

import ipaddress

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
# Not public, though `ipaddress` of some Python versions takes them for it.
_REFUSED = tuple(
    ipaddress.ip_network(network)
    for network in (
        "0.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT; one cloud has its metadata here
        "168.63.129.16/32",  # a cloud's own agent, on a public address
        "192.0.0.0/24",
        "192.88.99.0/24",  # 6to4 relays
        "198.18.0.0/15",
        "2001::/32",  # Teredo
        "2002::/16",  # 6to4
        "64:ff9b:1::/48",  # NAT64 of a local network
        "::/96",  # IPv4-compatible, long gone; the unspecified address and loopback lie in it
        "fec0::/10",  # site-local, long gone
        "3fff::/20",
        "5f00::/16",
    )
)


def is_public(address: str) -> bool:
    """Whether an address (as text, as a resolver gives it) may be called; anything that is no address may not."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.scope_id is not None:
            return False
        if ip.ipv4_mapped is not None:
            return is_public(str(ip.ipv4_mapped))
        if ip in _NAT64:
            return is_public(str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)))
    if any(ip in network for network in _REFUSED if network.version == ip.version):
        return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_link_local or ip.is_loopback)
