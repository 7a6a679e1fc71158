"""Where torchrun's agents meet: torch's own c10d rendezvous, over a connection that does not outlive a dead network.

Owns one socket option. Left alone, an agent whose network was cut waits for an answer of node 0 until the kernel gives up,
a quarter of an hour, long after its ranks have ended.
"""

from __future__ import annotations

import os
import socket
import stat

from torch.distributed.elastic.rendezvous import RendezvousHandler, RendezvousParameters, rendezvous_handler_registry
from torch.distributed.elastic.rendezvous.c10d_rendezvous_backend import C10dRendezvousBackend, create_backend
from torch.distributed.elastic.rendezvous.dynamic_rendezvous import create_handler

from compact_ds.launcher.commands import BACKEND


class Backend(C10dRendezvousBackend):
    """torch's, under the name by which the agent looks for it."""

    @property
    def name(self) -> str:
        """The name."""
        return BACKEND


def register() -> None:
    """Make it known to torchrun's agent in this process."""
    rendezvous_handler_registry.register(BACKEND, _create)


def end_with_the_network(port: int, seconds: int) -> int:
    """Let this process's TCP connections to that port end when nothing has been acknowledged for so long; how many there are."""
    found = 0
    for entry in os.listdir("/proc/self/fd") if hasattr(socket, "TCP_USER_TIMEOUT") else []:
        try:
            if not stat.S_ISSOCK(os.fstat(int(entry)).st_mode):
                continue
            with socket.socket(fileno=os.dup(int(entry))) as connection:
                if connection.type == socket.SOCK_STREAM and connection.getpeername()[1:2] == (port,):
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * seconds)
                    found += 1
        except (OSError, TypeError):
            continue  # closed meanwhile, or of another family
    return found


def _create(parameters: RendezvousParameters) -> RendezvousHandler:
    _, store = create_backend(parameters)
    port, seconds = parameters.endpoint.rpartition(":")[2], parameters.get_as_int("read_timeout")
    assert seconds is not None, "our own command sets it"
    end_with_the_network(int(port), seconds)
    return create_handler(store, Backend(store, parameters.run_id), parameters)
