"""What a run writes: read back from the files, by TensorBoard's own reader too, also after going on from a checkpoint."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from compact_ds.run.log import EVALUATIONS, METRICS, RunLog, read


def row(step: int, loss: float) -> dict[str, Any]:
    """A line as the loop writes it, with values that TensorBoard's fp32 holds exactly."""
    weight = {"ada": 0.75, "ben b/c": 0.25} if step % 2 == 0 else {"ada": 1.0}
    return {
        "step": step, "lr": 0.5, "loss": loss, "examples": 2, "tokens": 64, "step_seconds": 0.25, "right_share": 0.125,
        "weight": weight, "token_loss": {"ada": loss + 1}, "weight_wrong": {},
        **({"gradient_cosine": {"ada | ben b/c": -0.5}} if step == 1 else {}),
    }  # fmt: skip


def evaluation(step: int, accuracy: float | None) -> dict[str, Any]:
    return {"step": step, "accuracy": accuracy, "n": 4}


def log(folder: Path, first: int = 0) -> RunLog:
    folder.mkdir(exist_ok=True)
    return RunLog(folder, first, 9, "compact")


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_rows_and_curves(tmp_path: Path) -> None:
    run = log(tmp_path)
    run.evaluation(evaluation(0, None))
    rows = [row(step, loss) for step, loss in enumerate((3.0, 2.5, 2.0))]
    for one in rows:
        run.step(one)
    run.evaluation(evaluation(3, 0.5))
    run.close()
    assert read(tmp_path / METRICS) == rows
    assert read(tmp_path / EVALUATIONS) == [evaluation(0, None), evaluation(3, 0.5)]
    assert curves(tmp_path) == {
        "train/loss": [(0, 3.0), (1, 2.5), (2, 2.0)],
        "train/lr": [(0, 0.5), (1, 0.5), (2, 0.5)],
        "train/examples": [(0, 2.0), (1, 2.0), (2, 2.0)],
        "train/tokens": [(0, 64.0), (1, 64.0), (2, 64.0)],
        "train/step_seconds": [(0, 0.25), (1, 0.25), (2, 0.25)],
        "train/right_share": [(0, 0.125), (1, 0.125), (2, 0.125)],
        "weight/ada": [(0, 0.75), (1, 1.0), (2, 0.75)],
        "weight/ben b/c": [(0, 0.25), (2, 0.25)],
        "token_loss/ada": [(0, 4.0), (1, 3.5), (2, 3.0)],
        "gradient_cosine/ada | ben b/c": [(1, -0.5)],
        "evaluation/accuracy": [(3, 0.5)],
        "evaluation/n": [(0, 4.0), (3, 4.0)],
    }


def test_the_board_is_laid_out_by_teacher(tmp_path: Path) -> None:
    from tensorboard.plugins.custom_scalar import layout_pb2  # type: ignore[import-untyped]
    from tensorboard.plugins.hparams import plugin_data_pb2  # type: ignore[import-untyped]

    run = log(tmp_path)
    for step in range(2):
        run.step(row(step, 1.0))
    run.evaluation(evaluation(2, 0.5))
    run.outcome({"seed": 3, "data": {"train": "a.jsonl", "limit": None}, "names": ["x"]})
    run.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"), {"histograms": 0})
    events.Reload()
    (config,) = events.Tensors("custom_scalars__config__")
    found = layout_pb2.Layout.FromString(config.tensor_proto.string_val[0])
    groups = {group.title: [tag for chart in group.chart for tag in chart.multiline.tag] for group in found.category}
    assert list(groups) == ["Teachers", "Teacher ada", "Teacher ben b/c"]
    # Of the points that are there, each group shows its own.
    tags = events.Tags()["scalars"]
    shown = {title: {t for t in tags if any(re.match(p, t) for p in patterns)} for title, patterns in groups.items()}
    assert shown["Teacher ben b/c"] == {"weight/ben b/c"}
    assert shown["Teacher ada"] == {"weight/ada", "token_loss/ada"}
    assert shown["Teachers"] == shown["Teacher ada"] | shown["Teacher ben b/c"] | {"train/right_share"}
    counts = [(e.step, e.histogram_value.num, e.histogram_value.max) for e in events.Histograms("weight_of_teachers")]
    assert counts == [(0, 2.0, 0.75), (1, 1.0, 1.0)]
    start = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    settings = plugin_data_pb2.HParamsPluginData.FromString(start).session_start_info.hparams
    values = {k: v.number_value or v.string_value for k, v in settings.items()}
    assert values == {"seed": 3.0, "data.train": "a.jsonl", "names": "['x']"}
    assert [e.value for e in events.Scalars("outcome/accuracy")] == [0.5]


def test_a_row_is_on_disk_as_soon_as_it_is_written(tmp_path: Path) -> None:
    run = log(tmp_path)
    run.step(row(0, 3.0))
    run.evaluation(evaluation(1, 0.5))
    assert (tmp_path / METRICS).read_text() == json.dumps(row(0, 3.0)) + "\n"
    assert (tmp_path / EVALUATIONS).read_text() == json.dumps(evaluation(1, 0.5)) + "\n"
    run.close()


def test_a_resumed_log_goes_on_from_the_checkpoint(tmp_path: Path) -> None:
    first = log(tmp_path)
    first.evaluation(evaluation(0, 0.25))
    for step in range(6):
        first.step(row(step, 8.0 - step))
        if step % 2:
            first.evaluation(evaluation(step + 1, step / 8))
    first.close()
    # Of the steps from 4 on nothing is left; what was evaluated after step 3, and so before the checkpoint, is.
    resumed = log(tmp_path, first=4)
    kept = [row(step, 8.0 - step) for step in range(4)]
    assert read(tmp_path / METRICS) == kept
    assert read(tmp_path / EVALUATIONS) == [evaluation(0, 0.25), evaluation(2, 0.125), evaluation(4, 0.375)]
    resumed.step(row(4, 1.0))
    resumed.evaluation(evaluation(5, 1.0))
    resumed.close()
    assert read(tmp_path / METRICS) == [*kept, row(4, 1.0)]
    found = curves(tmp_path)
    assert found["train/loss"] == [(0, 8.0), (1, 7.0), (2, 6.0), (3, 5.0), (4, 1.0)]
    assert found["weight/ben b/c"] == [(0, 0.25), (2, 0.25), (4, 0.25)]
    assert found["evaluation/accuracy"] == [(0, 0.25), (2, 0.125), (4, 0.375), (5, 1.0)]


def test_a_run_without_a_checkpoint_starts_over(tmp_path: Path) -> None:
    first = log(tmp_path)
    first.evaluation(evaluation(0, 0.25))
    first.step(row(0, 3.0))
    first.close()
    again = log(tmp_path)
    again.evaluation(evaluation(0, 0.5))
    again.step(row(0, 2.0))
    again.close()
    assert read(tmp_path / METRICS) == [row(0, 2.0)]
    assert read(tmp_path / EVALUATIONS) == [evaluation(0, 0.5)]
    found = curves(tmp_path)
    assert (found["train/loss"], found["evaluation/accuracy"]) == ([(0, 2.0)], [(0, 0.5)])


def test_the_bar_starts_at_the_first_step_and_says_what_counts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = log(tmp_path, first=4)
    run.step(row(4, 1.5))
    run.evaluation({"step": 5, "accuracy": 0.123456, "n": 4})
    run.close()
    captured = capsys.readouterr()
    assert "step 5  accuracy 0.1235  n 4" in captured.out + captured.err
    last = captured.err.replace("\r", "\n").strip().splitlines()[-1]
    # 64 tokens in a quarter of a second.
    assert "compact" in last and "5/9" in last
    assert "loss=1.500 256 tokens/s ada=0.75 ben b/c=0.25" in last


def test_a_line_that_a_crash_left_unfinished_is_no_row(tmp_path: Path) -> None:
    rows = [row(step, 1.0) for step in range(2)]
    file = tmp_path / METRICS
    file.write_text("".join(json.dumps(r) + "\n" for r in rows) + '{"step": 2, "lo', encoding="utf-8")
    assert read(file) == rows
    log(tmp_path, 2).close()
    assert file.read_text(encoding="utf-8") == "".join(json.dumps(r) + "\n" for r in rows)
