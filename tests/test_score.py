"""Scoring: equal to training's own weights, to separate rows, over any number of ranks, and after a kill."""

import json
import math
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from processes import ROOT
from uneven_questions import write

from compact_ds import score
from compact_ds.cli import main
from compact_ds.config import load as config_of
from compact_ds.errors import UserError
from compact_ds.scoring.output import shown
from compact_ds.student.load import load_lm, load_tokenizer
from compact_ds.student.measure import Measurement, measure

OVERRIDES = ["student.tokenizer=task:arithmetic", "data.batch_size=8", "tree.row_tokens=200", "tree.rows=1"]
OVERRIDES += ["student.scratch={hidden_size: 64, intermediate_size: 128}"]

Rows = list[dict[str, Any]]
Scored = tuple[dict[str, Any], Rows]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("score")
    write(made / "questions.jsonl")
    return made


def own(folder: Path) -> list[str]:
    return [*OVERRIDES, f"data.cache_dir={folder}"]


@pytest.fixture(scope="module")
def scored(folder: Path) -> Scored:
    output = folder / "scores.jsonl"
    found = score.run(str(folder / "questions.jsonl"), "scratch", output, None, own(folder), num_shown=2)
    assert found is not None
    return found, [json.loads(line) for line in output.read_text().splitlines()]


# Losses of 3 nats in fp32 over other neighbours in a row: measured 2.4e-7. A weight moves by up to beta / (4 tau s_A) = 42 times
# what its gain does, s_A being 0.02 nats for this untrained student.
TOLERANCE = 1e-6
OF_WEIGHTS = 42


def assert_same(rows: Rows, want: Rows) -> None:
    assert [(r["id"], r["teacher"], r["index"], r["epiphany_step"]) for r in rows] == [
        (r["id"], r["teacher"], r["index"], r["epiphany_step"]) for r in want
    ]
    for row, other in zip(rows, want, strict=True):
        assert row["weight"] == pytest.approx(other["weight"], abs=OF_WEIGHTS * TOLERANCE), row["id"]
        for key in ("consensus", "adaptability", "difficulty", "token_loss"):
            assert row[key] == pytest.approx(other[key], abs=TOLERANCE), (row["id"], key)
        assert row["pmi"] == pytest.approx(other["pmi"], abs=TOLERANCE)


def test_weights_are_softmaxes_of_standardised_metrics(scored: Scored) -> None:
    """DESIGN section 3 written out in Python, from the metrics that the rows give."""
    found, rows = scored
    assert found["rationales"] == len(rows)
    of: dict[str, Rows] = {}
    for row in rows:
        of.setdefault(row["id"], []).append(row)
    spread = {}
    for name in ("consensus", "adaptability", "difficulty"):
        deviations = [r[name] - sum(x[name] for x in o) / len(o) for o in of.values() for r in o]
        spread[name] = math.sqrt(sum(d * d for d in deviations) / sum(len(o) - 1 for o in of.values()))
    mean = sum(r["token_loss"] for r in rows) / len(rows)
    for own_rows in of.values():
        for row in own_rows:
            assert row["difficulty"] == pytest.approx(max(0.0, row["token_loss"] - mean), abs=1e-6)
            assert row["adaptability"] == pytest.approx(row["pmi"][-1], abs=1e-6)
        teachers = sorted({row["teacher"] for row in own_rows})
        mean_of = {k: {t: [r[k] for r in own_rows if r["teacher"] == t] for t in teachers} for k in spread}
        assert sum(row["weight"] for row in own_rows) == pytest.approx(1.0)
        if len(teachers) == len(own_rows) > 1:
            centred = {
                k: {t: v[0] - sum(x[0] for x in m.values()) / len(m) for t, v in m.items()} for k, m in mean_of.items()
            }
            # A metric that spreads nowhere has no say: these wrong teachers never agree.
            share = {"consensus": 0.3, "adaptability": 1.0, "difficulty": -0.1}
            heard = {k: share[k] / spread[k] for k in share if spread[k] > 1e-6}
            logit = {t: sum(heard[k] * centred[k][t] for k in heard) / 0.3 for t in teachers}
            total = sum(math.exp(v) for v in logit.values())
            for row in own_rows:
                assert row["weight"] == pytest.approx(math.exp(logit[row["teacher"]]) / total, abs=1e-5)


def test_rows_give_the_scores_of_trees(folder: Path, scored: Scored) -> None:
    output = folder / "rows.jsonl"
    score.run(
        str(folder / "questions.jsonl"), "scratch", output, None, [*own(folder), "tree.layout=rows", "tree.rows=8"]
    )
    # The same tokens in other rows, fp32.
    assert_same([json.loads(line) for line in output.read_text().splitlines()], scored[1])


def test_two_ranks_and_parquet_give_the_same(folder: Path, scored: Scored) -> None:
    import pyarrow.parquet as pq

    output = folder / "scores.parquet"
    words = ["score", str(folder / "questions.jsonl"), "--student", "scratch", "--output", str(output), "--nprocs", "2"]
    assert main([*words, *own(folder)]) == 0
    assert_same(pq.read_table(output).to_pylist(), scored[1])
    assert not list(folder.glob("scores.parquet.measured-*"))


def test_a_killed_run_goes_on_and_ends_the_same(folder: Path, scored: Scored) -> None:
    output = folder / "killed.jsonl"
    command = [sys.executable, "-m", "compact_ds.cli", "score", str(folder / "questions.jsonl"), "--student", "scratch"]
    command += ["--output", str(output), *own(folder), "data.batch_size=1"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    journal = folder / "killed.jsonl.measured-0"
    for _ in range(1200):
        if journal.exists() and journal.read_bytes().count(b"\n") > 10:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    if not output.exists():
        # As a kill in the middle of a write leaves it.
        kept = journal.read_bytes()
        journal.write_bytes(kept[: kept.rindex(b"\n", 0, len(kept) - 1) + 20])
    calls = []

    def counted(*given: Any) -> Measurement:
        calls.append(1)
        return measure(*given)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(score, "measure", counted)
        score.run(str(folder / "questions.jsonl"), "scratch", output, None, [*own(folder), "data.batch_size=1"])
    assert 0 < len(calls) < 60
    # Batches of other sizes, fp32; a weight multiplies a difference by beta / (tau * spread).
    assert_same([json.loads(line) for line in output.read_text().splitlines()], scored[1])


def test_a_journal_of_another_run_is_refused(folder: Path) -> None:
    output = folder / "other.jsonl"
    (folder / "other.jsonl.measured-0").write_text('{"data": "else"}\n', encoding="utf-8")
    with pytest.raises(UserError, match="measured-0"):
        score.run(str(folder / "questions.jsonl"), "scratch", output, None, own(folder))


def stopped(data: Path, student: str, output: Path, given: list[str]) -> None:
    """A scoring that ends in its third batch."""
    calls = []

    def thrice(*asked: Any) -> Measurement:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return measure(*asked)

    with pytest.MonkeyPatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(score, "measure", thrice)
        score.run(str(data), student, output, None, given)


def test_a_student_that_changed_meanwhile_is_another_one(folder: Path, tmp_path: Path) -> None:
    data, output, student = folder / "questions.jsonl", tmp_path / "scores.jsonl", tmp_path / "student"
    config = config_of("arithmetic", [OVERRIDES[-1]])
    tokenizer = load_tokenizer(config.student)
    load_lm(config, len(tokenizer)).save_pretrained(student)
    tokenizer.save_pretrained(student)
    given = [*own(folder)[1:4], f"data.cache_dir={folder}", "data.batch_size=1"]
    stopped(data, str(student), output, given)
    # Every weight anew, in files of the same names and sizes.
    load_lm(config.model_copy(update={"seed": 5}), len(tokenizer)).save_pretrained(student)
    with pytest.raises(
        UserError, match=r"measured-0: found weights \[\['model\.safetensors', \d+, \d+\]\]; expected .*; delete it"
    ):
        score.run(str(data), str(student), output, None, given)
    journal = tmp_path / "scores.jsonl.measured-0"
    journal.unlink()
    stopped(data, str(student), output, given)
    assert journal.read_bytes().count(b"\n") > 1
    assert score.run(str(data), str(student), output, None, given) is not None and not journal.exists()


def test_a_student_from_another_seed_is_another_one(folder: Path, tmp_path: Path) -> None:
    data, output = folder / "questions.jsonl", tmp_path / "scores.jsonl"
    stopped(data, "scratch", output, [*own(folder), "data.batch_size=1"])
    with pytest.raises(UserError, match="measured-0: found seed 0; expected 1; delete it"):
        score.run(str(data), "scratch", output, None, [*own(folder), "data.batch_size=1", "seed=1"])


def test_the_ends_show_steps_with_the_epiphany_marked(scored: Scored) -> None:
    top = scored[0]["top"]
    assert len(top["most"]) == len(top["least"]) == 2
    assert top["most"][0]["weight"] > top["least"][0]["weight"]
    text = shown(top)
    assert "most compatible:" in text and "least compatible:" in text
    marked = [line for line in text.splitlines() if line.strip().startswith("->")]
    assert len(marked) == sum(row["epiphany_step"] is not None for rows in top.values() for row in rows)


def test_an_output_that_would_be_neither_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", str(folder / "questions.jsonl"), "--output", "scores.txt"]) == 2
    assert ".jsonl or .parquet" in capsys.readouterr().err


def test_a_score_without_a_student_names_the_option(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", str(folder / "questions.jsonl")]) == 2
    expected = "expected the student that is to score; give --student MODEL or --config CONFIG"
    assert capsys.readouterr().err == f"compact-ds: error: --student: found nothing; {expected}\n"


def test_a_run_folder_in_place_of_its_student_is_told_where_that_is(folder: Path, tmp_path: Path) -> None:
    final = tmp_path / "run" / "final"
    final.mkdir(parents=True)
    (final / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match=f"a run's student is in its folder final: {final}$"):
        score.run(str(folder / "questions.jsonl"), str(tmp_path / "run"), None, None, [])


def test_what_no_row_can_hold_is_listed_and_counted(
    tmp_path: Path, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = (folder / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    example = json.loads(lines[0])
    example["rationales"][0]["text"] = "2 plus 2 makes 4 .\n" * 60 + example["rationales"][0]["text"]
    (tmp_path / "long.jsonl").write_text("\n".join([json.dumps(example), *lines[1:]]) + "\n", encoding="utf-8")
    output = tmp_path / "new" / "scores.jsonl"
    found = score.run(str(tmp_path / "long.jsonl"), "scratch", output, None, [*own(folder), "data.max_left_out=0.5"])
    listed = [json.loads(line) for line in (tmp_path / "new" / "scores.jsonl.left_out.jsonl").read_text().splitlines()]
    assert [(row["id"], row["teacher"]) for row in listed] == [(example["id"], example["rationales"][0]["teacher"])]
    assert "1 rationales do not fit tree.row_tokens" in caplog.text
    assert found is not None and found["left_out"] == 1
    assert found is not None and found["rationales"] == sum(len(json.loads(line)["rationales"]) for line in lines) - 1
