"""torchrun's agent with torchrun's own arguments, and the exit code of the rank that failed for the last word.

Owns neither ranks nor restarts. `python -m compact_ds.launcher.elastic_agent --nnodes=... -m MODULE ...`.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence

from compact_ds.errors import ERROR_PREFIX, FaultError

STOP_SECONDS = 15
"""How long ranks are left that another's end has stopped; they end by themselves once they know its reason."""


def main(words: Sequence[str]) -> int:
    """Run the agent; 0, or the code of the first failed rank (256 - n for signal n, as DeepSpeed's launcher has it).

    1 when another node's agent has given up, which tells why.
    """
    # Or the ranks of a second start would find the addresses of the first in the store that the agent keeps.
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(STOP_SECONDS))
    from torch.distributed import DistError, run
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous.api import RendezvousClosedError, RendezvousError

    from compact_ds.launcher import meeting

    meeting.register()
    for name in ("torch.distributed.elastic", "torch.distributed.run"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what failed is told by the ranks and by the launch command
    arguments = run.parse_args(list(words))
    # Left alone the agent compares the endpoint with this machine's own name, which need not resolve to its address.
    is_host = f"is_host={int(int(arguments.node_rank) == 0)}"
    arguments.rdzv_conf = ",".join(filter(None, (arguments.rdzv_conf, is_host)))
    try:
        run.run(arguments)
    except ChildFailedError as error:
        return int(error.get_first_failure()[1].exitcode) % 256 or 1
    except RendezvousClosedError:
        return 1
    except (RendezvousError, DistError) as error:
        found = f"{type(error).__name__}: {error.__cause__ or error}"
        expected = f"all {arguments.nnodes} nodes to meet there"
        remedy = "see that node 0 is up, --master-addr is its, and the port free and open: compact-ds doctor --hostfile"
        fault = FaultError(f"--master-addr {arguments.rdzv_endpoint}", found, expected, remedy)
        sys.stderr.write(f"{ERROR_PREFIX}{fault}\n")
        return fault.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
