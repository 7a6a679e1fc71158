"""A measurement, not a test: the error of pointwise mutual information on a real student's hidden states, by how it is computed.

Run `python measure_pmi.py DATA [QUESTIONS]` with a file in the project's schema. The student is SmolLM2-135M-Instruct; hidden
states and head are rounded to bf16 as a GPU holds them, and float64 on those same operands is the truth. Without a GPU the
Triton kernels run in the interpreter.
"""

import os
import sys

import torch
from torch import Tensor

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

from compact_ds.config import load
from compact_ds.engine.ranks import Ranks
from compact_ds.kernels.lse_forward import forward
from compact_ds.kernels.lse_gather import lse_gather
from compact_ds.kernels.lse_torch import HeadShape
from compact_ds.kernels.segment_scores import ScorePlan, segment_scores
from compact_ds.kernels.tiles import Tiles
from compact_ds.optimizer_step.training_set import TrainingSet
from compact_ds.student.load import load_lm, load_tokenizer
from compact_ds.student.measure import Student
from compact_ds.tree.tokenise import Tokeniser

# Large, because the interpreter's time goes by the number of tiles.
TILES = Tiles(64, 2048, 64, warps=4, stages=1)


def real_rows(data: str, questions: int) -> tuple[Tensor, Tensor, Tensor, ScorePlan]:
    """Hidden states, head, targets and plan of the first micro-batch, in bf16."""
    overrides = [f"data.train={data}", "data.eval=null", f"data.batch_size={questions}", "tree.rows=64"]
    config = load("svamp_smollm2", [*overrides, "student.lora=null"])
    tokeniser = Tokeniser(load_tokenizer(config.student), config.data.cue)
    training = TrainingSet(config, tokeniser)
    lm = load_lm(config, len(tokeniser.tokenizer))
    student, captured = Student(lm, "tree"), []
    head = lm.get_output_embeddings()
    head.register_forward_pre_hook(lambda module, args: captured.append(args[:2]))
    batch = training.step(0, Ranks(0, 1, torch.device("cpu"))).batches[0]
    with torch.no_grad():
        student(batch)
    (hidden, targets), plan = captured[0], batch.plan
    return hidden.bfloat16(), head.weight.detach().bfloat16(), targets, plan


def main(data: str, questions: int) -> None:
    hidden, weight, targets, plan = real_rows(data, questions)
    logits = hidden.double() @ weight.double().T

    def by_logits(values: Tensor) -> tuple[Tensor, Tensor]:
        return values.logsumexp(1), values.gather(1, targets)

    shape = HeadShape(None, 1.0, 0, 64 << 20)
    ways = {
        "torch path": lse_gather(hidden, weight, targets, kernels="torch"),
        "Triton kernels": forward(hidden, weight, targets.int(), None, shape, TILES),
        "logits rounded to bf16, fp32 softmax": by_logits(logits.bfloat16().float()),
    }
    truth = segment_scores(*by_logits(logits), plan)
    nll = logits.logsumexp(1) - logits.gather(1, targets)[:, 0]
    print(f"{len(hidden)} rows, {len(plan.base_C)} rationales, mean loss {nll.mean():.3f} nats")
    print("| way | token loss, largest error | PMI total | largest jump | 64-token sum |\n|---|---|---|---|---|")
    for name, (lse, z) in ways.items():
        scores = segment_scores(lse.float(), z.float(), plan)
        error = (lse.double() - z.double()[:, 0]) - nll
        sums = error[: len(error) // 64 * 64].view(-1, 64).sum(1)
        errors = (error, scores.total_C - truth.total_C, scores.jump_C - truth.jump_C, sums)
        print(f"| {name} | " + " | ".join(f"{float(e.abs().max()):.1e}" for e in errors) + " |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 8)
