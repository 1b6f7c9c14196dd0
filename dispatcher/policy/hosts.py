"""Recognizes the hosts that are this machine: traffic to them does not cross a network."""

from ipaddress import ip_address


def is_local(host: str) -> bool:
    """Whether the name or address is this machine's; does not resolve names."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.rstrip(".").lower() == "localhost"
