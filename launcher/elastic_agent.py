"""torchrun's agent with torchrun's own arguments, and the exit code of the rank that failed for the last word.

Owns neither ranks nor restarts. `python -m compact_ds.launcher.elastic_agent --nnodes=... -m MODULE ...`.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence


def main(words: Sequence[str]) -> int:
    """Run the agent; 0, or the code of the first failed rank (256 - n for signal n, as DeepSpeed's launcher has it)."""
    # Or the ranks of a second start would find the addresses of the first in the store that the agent keeps.
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    for name in ("torch.distributed.elastic", "torch.distributed.run"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what failed is told by the ranks and by the launch command
    try:
        run.run(run.parse_args(list(words)))
    except ChildFailedError as error:
        return int(error.get_first_failure()[1].exitcode) % 256 or 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
