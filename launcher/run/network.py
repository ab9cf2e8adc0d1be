"""By which address and interface other machines reach this one, whose own name may stand for the loopback here."""

from __future__ import annotations

import socket

import psutil

ANYWHERE = "192.0.2.1"
"""An address of no machine (RFC 5737): what leads there is what leads out."""


def address_towards(peer: str) -> str:
    """The address that packets to `peer` leave from; nothing is sent. Raises OSError if it cannot be reached."""
    family, kind, protocol, _, target = socket.getaddrinfo(peer, 9, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.connect(target)
        return str(probe.getsockname()[0])


def interface_of(address: str) -> str | None:
    """The network interface of an address."""
    found = (name for name, addresses in psutil.net_if_addrs().items() if any(a.address == address for a in addresses))
    return next(found, None)


def interface_towards(peer: str) -> str | None:
    """The interface that leads to a machine, or out where the machine is this one; None where there is none."""
    for target in (peer, ANYWHERE):
        try:
            address = address_towards(target)
        except OSError:
            continue
        if not address.startswith("127."):
            return interface_of(address)
    return None
