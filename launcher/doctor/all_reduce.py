"""One rank of the doctor's all-reduce: `python -m compact_ds.launcher.doctor.all_reduce FILE` under a launcher.

The first rank writes latency (seconds of 4 bytes) and bandwidth (bytes a second of 16 MiB) to FILE; medians.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from datetime import timedelta
from pathlib import Path

REPEATS = 9
LARGE = 1 << 22
TIMEOUT_SECONDS = 60


def main(file: Path) -> None:
    """Meet, sum, write."""
    import torch
    from torch import distributed as dist

    from compact_ds.launcher.devices import uses_gpu
    from compact_ds.launcher.interface import choose_interface

    on_gpu = uses_gpu()
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    else:
        choose_interface()
    dist.init_process_group("nccl" if on_gpu else "gloo", timeout=timedelta(seconds=TIMEOUT_SECONDS))
    seconds = []
    for size in (1, LARGE):
        values_N = torch.ones(size, device="cuda" if on_gpu else "cpu")
        taken = []
        for _ in range(REPEATS):
            dist.barrier()
            started = time.perf_counter()
            dist.all_reduce(values_N)
            if on_gpu:
                torch.cuda.synchronize()
            taken.append(time.perf_counter() - started)
        seconds.append(statistics.median(taken))
    if dist.get_rank() == 0:
        speed = {"latency_seconds": seconds[0], "bytes_per_second": 4 * LARGE / seconds[1]}
        unfinished = file.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(speed), encoding="utf-8")
        os.replace(unfinished, file)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
