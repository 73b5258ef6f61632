"""Internet addresses: none is kept whole. Of each stays the network of 24 (IPv4) or 48 bits (IPv6), as is usual."""

import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address
from socket import AF_INET, inet_pton
from typing import Any

IPV4_MASK, IPV6_MASK = ~((1 << 32 - 24) - 1), ~((1 << 128 - 48) - 1)
# In JSON, also as a text within a text: what a name that ends in ip or ip address has as its value. It begins with
# fixed letters and each repetition has an end, so that it is quick whatever it is given.
_NAMED = re.compile(rb'ip(?:[_-]?addr(?:ess)?)?\\{0,8}"\s{0,8}:\s{0,8}\\{0,8}"\s{0,8}([0-9a-f:.]{2,45})', re.IGNORECASE)


def anonymised(address: object) -> str:
    """Return the network that an IP address is in; empty for what is none."""
    if not isinstance(address, str):
        return ""
    try:
        first, second, third, _ = inet_pton(AF_INET, address)  # ten times as quick as ip_address, and as strict
        return f"{first}.{second}.{third}.0"
    except (OSError, ValueError):
        pass
    try:
        parsed = ip_address(address.strip())
    except ValueError:
        return ""
    if isinstance(parsed, IPv6Address):  # of what carries an IPv4 address, that one is cut
        tunnelled = parsed.teredo[1] if parsed.teredo else None
        parsed = parsed.ipv4_mapped or parsed.sixtofour or tunnelled or parsed
    if isinstance(parsed, IPv4Address):
        return str(IPv4Address(int(parsed) & IPV4_MASK))
    return str(IPv6Address(int(parsed) & IPV6_MASK))


def hide_addresses(events: Iterable[Any]) -> None:
    """Replace, in place, the address that an SDK put into an event's context by its network."""
    for event in events:
        context = event.get("context") if isinstance(event, dict) else None
        if isinstance(context, dict) and "ip" in context:
            context["ip"] = anonymised(context["ip"])


def hidden_in_text(content: bytes) -> bytes:
    """JSON, or what was meant to be, with each address that is named as one (`ip`, `sourceIPAddress`) cut likewise."""
    return _NAMED.sub(_network, content)


def _network(match: re.Match[bytes]) -> bytes:
    before = match.group()[: match.start(1) - match.start()]
    network = anonymised(match[1].decode())
    return before + network.encode() if network else match.group()
