"""torchrun's agent with torchrun's own arguments, and the exit code of the rank that failed for the last word.

Owns neither ranks nor restarts. `python -m compact_ds.launcher.elastic_agent --nnodes=... -m MODULE ...`.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence

from compact_ds.errors import ERROR_PREFIX, FaultError


def main(words: Sequence[str]) -> int:
    """Run the agent; 0, or the code of the first failed rank (256 - n for signal n, as DeepSpeed's launcher has it)."""
    # Or the ranks of a second start would find the addresses of the first in the store that the agent keeps.
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous.api import RendezvousError

    for name in ("torch.distributed.elastic", "torch.distributed.run"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what failed is told by the ranks and by the launch command
    arguments = run.parse_args(list(words))
    # Left alone the agent compares the endpoint with this machine's own name, which need not resolve to its address.
    arguments.rdzv_conf = f"is_host={int(int(arguments.node_rank) == 0)}"
    try:
        run.run(arguments)
    except ChildFailedError as error:
        return int(error.get_first_failure()[1].exitcode) % 256 or 1
    except RendezvousError as error:
        expected = f"all {arguments.nnodes} nodes to meet there"
        remedy = "see that --master-addr is node 0 and the port free and open: compact-ds doctor --hostfile"
        fault = FaultError(f"--master-addr {arguments.rdzv_endpoint}", str(error.__cause__ or error), expected, remedy)
        sys.stderr.write(f"{ERROR_PREFIX}{fault}\n")
        return fault.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
