"""The main job, top to bottom: data, student, engine, steps, checkpoints, evaluation, export.

Owns the order of things in a run. One process, or one of many under the `deepspeed` launcher:
`deepspeed --module compact_ds.train CONFIG [key=value ...]`.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any

from compact_ds import callbacks as hooks
from compact_ds import config as configuration
from compact_ds.engine import random_state
from compact_ds.engine.allocator import returning_freed_memory
from compact_ds.engine.ranks import Ranks, ranks
from compact_ds.engine.shards import full_state
from compact_ds.engine.start import Engine, learning_rate
from compact_ds.evaluation.generation import decoding_of, evaluate, summary, write_rows
from compact_ds.evaluation.retention import measure_retention, retention_sets
from compact_ds.launcher.run_folder import check_run_dir
from compact_ds.mixer.gradient_mode import Reference, groups_of
from compact_ds.optimizer_step.branches import Branches
from compact_ds.optimizer_step.reference_sets import ReferenceSet, reference_sets
from compact_ds.optimizer_step.step import Step, StepResult
from compact_ds.optimizer_step.training_set import TrainingSet, check_batch_size, held_out_examples
from compact_ds.phases import measured
from compact_ds.run import model_card
from compact_ds.run.checkpoints import RunCheckpoints
from compact_ds.run.environment import environment
from compact_ds.run.identity import identity
from compact_ds.run.log import EVALUATIONS, RunLog, read
from compact_ds.run.stop_requests import StopRequests
from compact_ds.run.summary import write_summary, write_traffic
from compact_ds.run.texts import texts
from compact_ds.run.watch import Watch
from compact_ds.sections import Config
from compact_ds.student import export
from compact_ds.student.load import load_lm, load_tokenizer
from compact_ds.student.measure import Student
from compact_ds.tree.tokenise import Tokeniser


def main(config: Config, resume: bool, trust: bool = False, callbacks: Sequence[hooks.Callback] = ()) -> int:
    """Train as the config says; 0 when done or stopped with a checkpoint. Raises UserError before the first step.

    `trust`: read the newest checkpoint even when it is not as it was written. `callbacks` are called on the first rank, before
    those that the config names.
    """
    kinds = hooks.named(config.callbacks)
    resume = resume or int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
    if int(os.environ.get("RANK", "0")) == 0:
        # The others may come here after the first rank has begun to write.
        check_run_dir(config.run_dir, resume)
    with StopRequests() as stop:
        tokeniser = Tokeniser(load_tokenizer(config.student), config.data.cue)
        data = TrainingSet(config, tokeniser)
        engine = config.engine
        with (
            Watch(config.run_dir, engine.heartbeat_seconds, engine.timeout_seconds, stop.ask) as watch,
            ranks(engine.timeout_seconds) as group,
        ):
            check_batch_size(config, group)
            everyone = hooks.Callbacks([*callbacks, *(kind() for kind in kinds)] if group.is_first else [])
            run = _Run(config, tokeniser, data, group, watch, trust, everyone)
            run.resume()
            return run.fit(stop)


class _Run:
    """A run's parts and its place in time (`step`, the next optimizer step)."""

    def __init__(
        self,
        config: Config,
        tokeniser: Tokeniser,
        data: TrainingSet,
        group: Ranks,
        watch: Watch,
        trust: bool,
        callbacks: hooks.Callbacks,
    ) -> None:
        self.watch, self.callbacks = watch, callbacks
        self.config, self.tokeniser, self.data, self.group = config, tokeniser, data, group
        self.folder, self.step = config.run_dir, 0
        # Before anything is written or loaded: what the mixer and the evaluations ask for must be there.
        groups_of(config.mixer, data.teachers)
        evaluation = config.evaluation
        self.kept = retention_sets(evaluation.retention, evaluation.retention_limit, config.data.eval_split)
        self.held_out = held_out_examples(config)
        references = reference_sets(config, tokeniser, group)
        self.checkpoints = RunCheckpoints(config, group, identity(config, data, references), trust)
        if group.is_first:
            self.folder.mkdir(parents=True, exist_ok=True)
            configuration.save(config, self.folder / "config.yaml")
            data.write_left_out(self.folder / "left_out.jsonl")
            noted = json.dumps(environment(group.world_size), indent=2)
            (self.folder / "environment.json").write_text(noted + "\n", encoding="utf-8")
        random_state.seed(config.seed)
        lm = load_lm(config, len(tokeniser.tokenizer))
        self.lm_config = export.plain_config(lm, tokeniser.tokenizer, config.student)
        self.engine = Engine(
            Student(lm, config.tree.layout, config.tree.probes, config.kernels, data.method.ranks_targets),
            config,
            group,
            universal=self.checkpoints.universal,
        )
        watch.count(lambda: self.engine.traffic.num_begun)
        self.stepper = self._stepper(references)

    def _stepper(self, references: Mapping[Reference, ReferenceSet]) -> Step | Branches:
        if self.config.method != "mot":
            return Step(self.config, self.data, self.engine, self.group, references)
        alone = {
            teacher: TrainingSet(self.config.model_copy(update={"method": f"single:{teacher}"}), self.tokeniser)
            for teacher in self.data.teachers
        }
        return Branches(self.config, alone, self.engine, self.group)

    def resume(self) -> None:
        """Go on from the newest checkpoint, if there is one. Raises UserError."""
        self.step = self.checkpoints.load(self.engine, self.stepper.load_state)

    def fit(self, stop: StopRequests) -> int:
        """The loop, with a log that is closed also when a step is refused: the error gets a line of its own."""
        log = None
        if self.group.is_first:
            added = tuple(self.config.compatibility.added)
            log = RunLog(self.folder, self.step, self.config.max_steps, self.config.method, added)
        try:
            return self._loop(stop, log)
        finally:
            if log is not None:
                log.close()

    def _loop(self, stop: StopRequests, log: RunLog | None) -> int:
        config, last = self.config, self.config.max_steps
        if self._owes_first() or self._owes_evaluation():
            self.evaluate(log)
        while self.step < last:
            self.watch.at(self.step, "step")
            started, waited = time.perf_counter(), self.engine.traffic.waited_seconds
            lr = learning_rate(config.optimizer, self.step, last)
            self.engine.traffic.begin_step()
            # On a GPU the parts could not be told apart without waiting for each.
            with measured() if self.group.device.type == "cpu" else nullcontext() as clock:
                result = self.stepper.run(self.step, lr, stop.asked)
            num_bytes = self.engine.traffic.end_step()
            seconds = time.perf_counter() - started
            self.watch.worked(seconds - (self.engine.traffic.waited_seconds - waited))
            if log is not None:
                row = _row(self.step, lr, result, seconds, num_bytes)
                if clock is not None:
                    row["seconds"] = clock.seconds
                log.step(row)
                if result.ends is not None:
                    log.texts(texts(result.ends, self.tokeniser), self.step)
                self.callbacks.on_step(row)
            self.step += 1
            if result.fault is not None:
                self.save(log, or_say=True)
                raise result.fault
            if result.stop and self.step < last:
                self.save(log)
                return self._say_how_to_resume(log)
            # Before the evaluation, and before the last one too: generation is where memory and time run out.
            if self._is_due(config.checkpoint_every):
                self.save(log, or_say=config.checkpoint_failure == "go_on")
            elif config.checkpoint_every and self.step == last:
                self.save(log, or_say=True)
            if self._is_due(config.evaluation.every):
                self.evaluate(log)
        self.finish(log)
        return 0

    def save(self, log: RunLog | None, or_say: bool = False) -> None:
        """Write a checkpoint. Raises UserError on all ranks alike when that fails, or only says so."""
        self.watch.at(self.step, "checkpoint")
        if log is not None:
            log.on_disk()
        if self.checkpoints.save(self.engine, self.step, self.stepper.state(), or_say):
            self.callbacks.on_checkpoint(self.folder / "checkpoints" / f"step-{self.step}")

    def _is_due(self, every: int) -> bool:
        return bool(every) and self.step % every == 0 and self.step < self.config.max_steps

    def _owes_first(self) -> bool:
        return self.step == 0 and self.config.evaluation.before

    def _owes_evaluation(self) -> bool:
        """Whether a resumed run was stopped on a step that it should have evaluated, before it did."""
        if self.step == 0 or not self._is_due(self.config.evaluation.every):
            return False
        file = self.folder / EVALUATIONS
        missing = self.group.is_first and all(
            row["step"] != self.step for row in (read(file) if file.is_file() else [])
        )
        return bool(self.group.gather(missing)[0])

    def evaluate(self, log: RunLog | None) -> None:
        """Measure on held-out questions, each rank its share."""
        self.watch.at(self.step, "evaluation")
        with returning_freed_memory():
            self._measure(self._plain(), log)

    def _plain(self) -> Any:
        """The student as a plain model, whole on every rank that measures with it; only exported, on the first, else None."""
        measured = bool(self.held_out or self.kept)
        state = full_state(self.engine.student, keep=measured or self.group.is_first)
        if not state:
            return None
        plain = export.plain_model(self.lm_config, state, self.config.student)
        return plain.to(self.group.device) if measured else plain

    def _measure(self, plain: Any, log: RunLog | None) -> None:
        settings, group = self.config.evaluation, self.group
        examples, share = self.held_out, slice(group.rank, None, group.world_size)
        row: dict[str, Any] = {"step": self.step}
        if examples:
            how = (settings.batch_size, decoding_of(settings), group.is_first, settings.rationale_loss)
            rows = evaluate(plain, self.tokeniser, examples[share], *how)
            everyone = [row for part in group.gather(rows) for row in part]
            row |= summary(everyone)
            if log is not None:
                write_rows(sorted(everyone, key=lambda r: r["id"]), self.folder / "predictions.jsonl")
        if self.kept:
            ways = (settings.batch_size, share, group.gather, group.is_first)
            row["retention"] = measure_retention(plain, self.tokeniser, self.kept, *ways)
        if log is not None and len(row) > 1:
            log.evaluation(row)
            self.callbacks.on_evaluation(row)

    def finish(self, log: RunLog | None) -> None:
        """`final/`, last evaluation, `summary.json`."""
        with returning_freed_memory():
            plain = self._plain()
            self.watch.at(self.step, "export")
            self._export(plain)
            self.watch.at(self.step, "evaluation")
            self._measure(plain, log)
        if log is not None:
            log.outcome(self.config.model_dump(mode="json"))
            log.close()
            figures = write_summary(self.config, self.folder)
            templated = self.tokeniser.tokenizer.chat_template is not None
            model_card.write(self.config, figures, len(self.data.usable), templated, self.folder / "final")
            write_traffic(self.engine.traffic.summary(self.engine.parameter_bytes), self.folder, self.group.world_size)
            self.callbacks.on_end(figures)
        self.group.barrier()

    def _export(self, plain: Any) -> None:
        if self.config.student.lora is not None:
            state = full_state(self.engine.student, keep=self.group.is_first)
            if self.group.is_first:
                export.save_adapter(self.engine.student.lm, state, self.folder / "adapter")
        if self.group.is_first:
            export.save(plain, self.tokeniser.tokenizer, self.folder / "final")

    def _say_how_to_resume(self, log: RunLog | None) -> int:
        if log is not None:
            log.close()
            file = shlex.quote(str(self.folder / "config.yaml"))
            command = f"compact-ds train {file} --resume"
            if self.group.world_size > 1:
                command = f"compact-ds launch {file} --nprocs {self.group.world_size} --resume"
            sys.stderr.write(f"stopped after step {self.step} with a checkpoint; go on with: {command}\n")
        return 0


def _row(step: int, lr: float, result: StepResult, seconds: float, num_bytes: int) -> dict[str, Any]:
    """A line of `metrics.jsonl`."""
    scalars = {**asdict(result.metrics), "step_seconds": seconds, "traffic_bytes": num_bytes}
    return {"step": step, "lr": lr, **scalars, **result.per_teacher}


def _leave(code: int) -> None:
    """End this process at once after a failure: taking down the interpreter may wait for ranks that wait for this one."""
    sys.stdout.flush()
    sys.stderr.flush()
    if code:
        os._exit(code)


if __name__ == "__main__":
    from compact_ds.cli import main as command_line

    try:
        _leave(command_line(["train", *sys.argv[1:]]))
    except Exception:  # told as the interpreter would, and with its exit code
        traceback.print_exc()
        _leave(1)
