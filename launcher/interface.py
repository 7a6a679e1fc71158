"""The network interface over which gloo reaches the other nodes.

Left alone it takes the one that the machine's own name resolves to, often loopback, and then waits for nodes that never come.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import socket

import psutil

LOGGER = logging.getLogger(__name__)

VARIABLE = "GLOO_SOCKET_IFNAME"


def choose_interface() -> None:
    """Set GLOO_SOCKET_IFNAME to the interface from which packets to the first rank's node leave, unless it is set.

    On one node alone nothing is chosen. Raises nothing: where no interface is found, gloo's own choice stays.
    """
    master = os.environ.get("MASTER_ADDR", "")
    if os.environ.get(VARIABLE) or not master or _is_alone():
        return
    address = _address_towards(master)
    name = next((name for name, held in psutil.net_if_addrs().items() if address in {a.address for a in held}), None)
    if name is not None:
        os.environ[VARIABLE] = name
        LOGGER.info("gloo: interface %s (%s), towards %s", name, address, master)


def _is_alone() -> bool:
    """Whether all ranks are on this node."""
    local = os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("LOCAL_SIZE"))
    return local is not None and local == os.environ.get("WORLD_SIZE")


def _address_towards(host: str) -> str | None:
    """The address of this machine from which packets to `host` leave."""
    try:
        family, *_, place = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:  # connecting it sends nothing
            probe.connect(place)
            address = str(probe.getsockname()[0])
    except OSError:
        return None
    return None if ipaddress.ip_address(address.partition("%")[0]).is_loopback else address
