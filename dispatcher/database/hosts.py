"""Which hosts are this machine: what is sent to them crosses no network. Pure."""

from ipaddress import ip_address


def is_local(host: str) -> bool:
    """Whether the host is this machine by its name or address; nothing is looked up."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.rstrip(".").lower() == "localhost"
