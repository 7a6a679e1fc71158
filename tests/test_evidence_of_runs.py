"""What a comparison says question by question, by hand, and as tables of three kinds and a picture."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compact_ds.evaluation import comparison, comparison_picture
from compact_ds.evaluation.evidence_of_runs import (
    answers_of,
    differences,
    intervals,
    pooled,
    retention_drops,
    sentences,
)

SEEDS = {"compact": ("1111011111", "1111101111"), "uniform": ("0010000100", "0000000100")}


@pytest.fixture
def results(tmp_path: Path) -> list[dict[str, Any]]:
    found = []
    for method, seeds in SEEDS.items():
        for seed, rights in enumerate(seeds):
            folder = tmp_path / method / str(seed)
            folder.mkdir(parents=True)
            rows = [{"id": f"q{i}", "right": letter == "1"} for i, letter in enumerate(rights)]
            (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            after = {"c/test": {"accuracy": 0.5 - 0.1 * seed, "n": 10}, "novel": {"text_loss": 3.5}}
            before = {"c/test": {"accuracy": 0.6, "n": 10}, "novel": {"text_loss": 3.25}}
            found.append(
                {"method": method, "seed": seed, "accuracy": rights.count("1") / 10, "run_dir": str(folder),
                 "retention": after, "retention_before": before if method == "compact" else {}}
            )  # fmt: skip
    return found


def test_seeds_are_pooled_by_question_and_questions_are_drawn(results: list[dict[str, Any]]) -> None:
    answers = answers_of(results)
    assert pooled(answers["compact"])["q4"] == 0.5 and pooled(answers["compact"])["q0"] == 1
    low, high = intervals(answers)["uniform"]
    # Values 0.5, 1 and eight times 0; all ways to draw ten of them, by 200,000 draws of another generator.
    values = np.array([0.5, 1, *[0] * 8])
    means = values[np.random.default_rng(0).integers(10, size=(200_000, 10))].mean(1)
    assert (low, high) == pytest.approx(
        tuple(np.quantile(means, [0.025, 0.975])), abs=0.051
    )  # a step of the mean is 0.05


def test_differences_and_their_words(results: list[dict[str, Any]]) -> None:
    (row,) = differences(answers_of(results), "uniform")
    assert row["difference"] == pytest.approx(0.9 - 0.15) and not row["within_noise"] and "mcnemar_p" not in row
    assert sentences([row])[0].startswith("compact less uniform: +0.750 [+0.")
    assert sentences([row])[0].endswith("on 10 questions, beyond noise")
    (alone,) = differences(answers_of([results[0], results[2]]), "uniform")
    # Seven questions differ, all for compact: 2 / 2^7.
    assert alone["mcnemar_p"] == pytest.approx(2 / 128)
    (same,) = differences(answers_of([results[0], {**results[0], "method": "uniform"}]), "uniform")
    assert same["within_noise"] and same["mcnemar_p"] == 1
    assert differences(answers_of(results), "first") == []


def test_what_was_lost_is_measured_from_the_untrained_student_of_any_run(results: list[dict[str, Any]]) -> None:
    lost = retention_drops(results)
    # Seeds keep 0.5 and 0.4 of 0.6.
    assert lost["compact"] == lost["uniform"] == {"c/test": pytest.approx(0.15), "novel": pytest.approx(0.25)}


def test_tables_and_picture(results: list[dict[str, Any]], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    table = comparison.rows(results, intervals(answers_of(results)), retention_drops(results))
    header, cells = comparison.full_table(table)
    assert header[-3:] == ("95 % interval", "drop c/test", "drop novel")
    assert cells[0][-2:] == ("0.150", "0.250") and all(len(own) == len(header) for own in cells)
    page = comparison.latex(table)
    assert r"95 \% interval" in page and r"0.900 $\pm$ 0.000" in page and page.count(r" \\") == 3
    read = list(csv.DictReader(io.StringIO(comparison.as_csv(table))))
    assert [row["method"] for row in read] == ["compact", "uniform"]
    assert float(read[1]["accuracy"]) == pytest.approx(0.15) and float(read[1]["drop novel"]) == pytest.approx(0.25)
    assert comparison_picture.plot(table, tmp_path / "c.png") == f"picture: {tmp_path / 'c.png'}"
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    assert comparison_picture.plot([], tmp_path / "d.png") == "no picture: no run has an accuracy"


def test_without_matplotlib_a_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install 'compact-ds[analyze]'" in comparison_picture.plot([], tmp_path / "c.png")
