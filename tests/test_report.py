"""The report without a browser: what is computed for it, that strangers' texts stay data, and what is refused."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from report_runs import HOSTILE, write_run

from compact_ds import cli
from compact_ds import config as configuration
from compact_ds.report.charts import POINTS, binned
from compact_ds.report.examples import gains
from compact_ds.report.kinds import kinds_of, telling_words
from compact_ds.report.page import embedded, page
from compact_ds.report.run_folder import open_runs
from compact_ds.report.scoring import scores_of

_LIBRARY = "window.vegaEmbed = 'a text with </script> in it';"


def _page(*folders: Path) -> str:
    runs = open_runs(folders)
    return page(runs, [scores_of(run, 0, run.folder / "scores.jsonl") for run in runs], _LIBRARY)


def _data(shown: str) -> Any:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', shown, re.S)
    assert found is not None
    return json.loads(found[1])


def _blocks(block: Any, kind: str) -> list[dict[str, Any]]:
    """All blocks of a kind, however deep."""
    if isinstance(block, list):
        return [found for one in block for found in _blocks(one, kind)]
    if not isinstance(block, dict):
        return []
    own = [block] if block.get("kind") == kind else []
    return own + [found for value in block.values() for found in _blocks(value, kind)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("report") / "first", steps=22)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report") / "a<b>"
    return write_run(folder, teachers=(f"eve | {HOSTILE}", "ben | bo", "cy"), mark=HOSTILE)


def test_the_sections_hold_what_the_files_say(run: Path) -> None:
    data = _data(_page(run))
    titles = [section["id"] for section in data["sections"]]
    assert titles == [
        "overview",
        "learning",
        "teachers",
        "kinds",
        "examples",
        "gradients",
        "retention",
        "costs",
        "settings",
    ]
    text = data["lines"][0]["text"]
    assert "compact on questions.jsonl: 22 steps, not finished" not in text and "22 steps of 22" in text
    assert "accuracy 25.0% → 75.0% of 6 held-out questions" in text and "11 s of steps" in text
    tables = {t["title"]: t["rows"] for t in _blocks(data["sections"], "table")}
    assert ["first", "2", "all_gather", 2, 3, 2] in tables["Communication"]
    assert ["first", "2 diagnosed steps", 1, "9.1%"] in tables["Seconds"]
    assert ["packages.torch", "2"] in tables["Environment"]
    assert ["ada", 6, "100%", 3, 0] in tables[""] and ["ben", 6, "0%", 3, 3] in tables[""]


def test_retention_is_a_chart_a_figure(run: Path) -> None:
    section = next(s for s in _data(_page(run))["sections"] if s["id"] == "retention")
    values = [row for one in _blocks(section, "chart")[-2:] for row in one["spec"]["data"]["values"]]
    assert [(row["series"], row["step"], row["value"]) for row in values] == [
        ("science/accuracy", 0, 0.5), ("science/accuracy", 22, 0.5), ("text/text_loss", 0, 2.5), ("text/text_loss", 22, 2.5),
    ]  # fmt: skip


def test_several_runs_stand_side_by_side(run: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "second", steps=4, teachers=("ben", "dan"))
    data = _data(_page(run, other))
    assert [line["run"] for line in data["lines"]] == ["first", "second"]
    assert list(data["colours"]) == ["ada", "ben", "cy", "dan"]
    over_time = next(section for section in data["sections"] if section["id"] == "teachers")
    assert [column["title"] for column in over_time["blocks"][0]["columns"]] == ["first", "second"]
    differ = next(t for t in _blocks(data["sections"], "table") if t["title"] == "Where they differ")
    assert ["max_steps", "22", "4"] in differ["rows"]
    assert [browser["run"] for browser in _blocks(data["sections"], "examples")[0]["browsers"]] == ["first", "second"]


def test_strangers_texts_are_data(hostile: Path) -> None:
    shown = _page(hostile)
    data = _data(shown)
    # One script of ours a file and the library, none from a text; nothing ends the block of data before its end.
    assert shown.count("<script") == 7 and shown.count("</script>") == 7
    assert "<img" not in shown and "\u2028" not in shown
    assert "<title>a&lt;b&gt; - compact_ds</title>" in shown
    item = _blocks(data["sections"], "examples")[0]["browsers"][0]["items"][0]
    assert item["question"] == f"How many apples? {HOSTILE}"
    assert item["rationales"][0]["steps"][0]["text"].startswith(HOSTILE.split("\u2028")[0])
    assert item["rationales"][0]["teacher"] == f"eve | {HOSTILE}"
    assert yaml_of(data)["student"]["model"] == f"nowhere/{HOSTILE}"


def yaml_of(data: Any) -> Any:
    return yaml.safe_load(
        next(b["content"] for b in _blocks(data["sections"], "text") if b["title"].startswith("Config"))
    )


def test_the_policy_names_every_script_and_no_other(run: Path) -> None:
    shown = _page(run)
    policy = re.search(r"script-src ([^;]*);", shown)
    assert policy is not None
    scripts = re.findall(r"<script>(.*?)</script>", shown, re.S)
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert policy[1].split() == [f"'sha256-{digest}'" for digest in digests]
    assert len(scripts) == 6
    assert "default-src 'none'" in shown
    assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", shown)


def test_a_teachers_name_may_hold_the_sign_between_a_pair(hostile: Path) -> None:
    section = next(s for s in _data(_page(hostile))["sections"] if s["id"] == "gradients")
    matrix = _blocks(section, "chart")[0]["spec"]
    found = {(row["y"], row["x"]): row["value"] for row in matrix["data"]["values"]}
    names = [f"eve | {HOSTILE}", "ben | bo", "cy"]
    assert found == {(a, b): -0.5 for a in names for b in names if a != b}


def test_no_number_is_null_and_digits_are_five() -> None:
    assert json.loads(embedded({"a": math.nan, "b": [math.inf, 1 / 3], "c": ("<", 7)})) == {
        "a": None,
        "b": [None, 0.33333],
        "c": ["<", 7],
    }


def test_binned_gives_means_over_consecutive_steps() -> None:
    values = [(step, None if step % 5 == 0 else float(step)) for step in range(40, 40 + 3 * POINTS)]
    rows = binned("x", values)
    assert len(rows) == POINTS
    for i, row in enumerate(rows):
        own = [v for s, v in values[3 * i : 3 * i + 3] if v is not None]
        assert row["value"] == pytest.approx(sum(own) / len(own))
    assert rows[1]["steps"] == "43-44" and rows[1]["series"] == "x"
    assert [r["value"] for r in binned("x", [(0, 1.0), (1, None), (2, 3.0)])] == [1.0, 3.0]
    assert binned("x", []) == []


@pytest.mark.parametrize(
    ("pmi", "steps", "expected"),
    [
        ([0.5, 0.25, 2.0], 3, [0.5, -0.25, 1.75]),
        ([2.0], 3, [2.0, 2.0, 2.0]),
        # Two probes of five steps stand after the first and the last.
        ([0.5, 2.0], 5, [0.5, 1.5, 1.5, 1.5, 1.5]),
        ([], 2, [None, None]),
        ([], 0, []),
    ],
)
def test_gains_are_differences_of_pmi(pmi: list[float], steps: int, expected: list[float | None]) -> None:
    assert gains({"pmi": pmi}, [f"step {i}" for i in range(steps)]) == expected


def test_words_that_tell_who_wins_make_kinds(run: Path, tmp_path: Path) -> None:
    few = scores_of(open_runs([run])[0], 0, run / "scores.jsonl").examples
    assert len(few) == 6 and telling_words(few) == [], "three questions of a word are no kind"
    run = write_run(tmp_path / "twelve", steps=2, questions=12)
    scored = scores_of(open_runs([run])[0], 0, run / "scores.jsonl").examples
    # `how` and `many` stand in every question; `apples` and `pears` tell everything, ln 2, the first of them by name.
    assert telling_words(scored) == ["apples", "pears"]
    found = kinds_of(scored)
    assert {name: [one.example.id for one in own] for name, own in found.items()} == {
        "all questions": [f"q{i}" for i in range(12)],
        "“apples”": [f"q{i}" for i in range(0, 12, 2)],
        "“pears”": [f"q{i}" for i in range(1, 12, 2)],
    }
    assert [one.winner for one in scored] == [0, 1] * 6
    assert [one.is_right(0) for one in scored] == [True] * 12 and not any(one.is_right(1) for one in scored)


def test_scored_held_out_questions_are_of_the_held_out_split(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets is a dependency of the package")
    run = write_run(tmp_path / "first", steps=2)
    settings = yaml.safe_load((run / "config.yaml").read_text())
    rows = [json.loads(line) for line in Path(settings["data"]["train"]).read_text().splitlines()]
    other = [one | {"id": f"other {one['id']}"} for one in rows]
    splits = {"train": datasets.Dataset.from_list(other), "test": datasets.Dataset.from_list(rows)}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "both")
    settings["data"] |= {"train": str(tmp_path / "both"), "eval": str(tmp_path / "both")}
    (run / "config.yaml").write_text(yaml.safe_dump(settings))
    found = scores_of(open_runs([run])[0], 0, run / "scores.jsonl").examples
    assert [one.example.id for one in found] == [row["id"] for row in rows]


def test_what_was_measured_once_is_a_table_and_what_never_was_a_sentence(tmp_path: Path) -> None:
    once, never = (write_run(tmp_path / str(steps), steps=steps) for steps in (12, 5))
    shown = {section["id"]: section for section in _data(_page(once))["sections"]}["gradients"]
    (table,) = _blocks(shown, "table")
    assert table["head"][:2] == ["at step 9", "gradient of the weighted loss, norm"] and table["rows"][0][:2] == [
        "ada",
        1.0,
    ]
    assert len(_blocks(shown, "chart")) == 1
    empty = {section["id"]: section for section in _data(_page(never))["sections"]}
    assert empty["gradients"]["blocks"] == [] and empty["gradients"]["note"].startswith("Not measured in 5 steps")


def test_examples_that_were_no_numbers_are_named(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    (folder / "summary.json").write_text(json.dumps({"examples_left_out": [f"q1{HOSTILE}", "q2"]}), encoding="utf-8")
    shown = _page(folder)
    (block,) = (one for one in _blocks(_data(shown), "text") if "left out" in one["title"])
    assert block["content"] == f"q1{HOSTILE}\nq2" and HOSTILE not in shown


def test_every_chart_compiles(run: Path) -> None:
    vl_convert = pytest.importorskip("vl_convert", reason="needs the extra `report`")
    charts = _blocks(_data(_page(run))["sections"], "chart")
    assert len(charts) > 15
    seen = set()
    for one in charts:
        # Charts of one shape compile alike.
        shape = json.dumps({k: v for k, v in one["spec"].items() if k != "data"}, sort_keys=True)[:400]
        if shape not in seen:
            seen.add(shape)
            assert vl_convert.vegalite_to_vega(one["spec"])["marks"]


def test_a_run_scores_its_own_questions_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("vl_convert", reason="needs the extra `report`")
    from compact_ds.student.load import load_lm, load_tokenizer

    run = write_run(tmp_path / "run", steps=3)
    (run / "scores.jsonl").unlink()
    shape = "student.scratch={hidden_size: 32, intermediate_size: 64, num_hidden_layers: 1, num_attention_heads: 2}"
    config = configuration.load("arithmetic", [f"run_dir={run}", shape, f"data.cache_dir={tmp_path}"])
    configuration.save(config, run / "config.yaml")
    tokenizer = load_tokenizer(config.student)
    load_lm(config, len(tokenizer)).save_pretrained(run / "final")
    tokenizer.save_pretrained(run / "final")
    # As a report that was killed left it, of the student before this one.
    journal = run / "scores-5.jsonl.measured-0"
    journal.write_text('{"data": "else"}\n', encoding="utf-8")
    os.utime(journal, (1, 1))
    assert cli.main(["report", str(run), "--examples", "5", "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out.splitlines()[-1])["page"] == str(run / "report.html")
    assert "scoring 5 questions of task:arithmetic:eval" in printed.err
    page = _data((run / "report.html").read_text(encoding="utf-8"))
    items = _blocks(page["sections"], "examples")[0]["browsers"][0]["items"]
    assert [item["id"] for item in items] == [f"arithmetic-eval-{i}" for i in range(5)]
    for item in items:
        assert sum(one["weight"] for one in item["rationales"]) == pytest.approx(1, abs=1e-4)
    assert cli.main(["report", str(run), "--examples", "5"]) == 0
    assert "scoring" not in capsys.readouterr().err


def test_what_is_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = write_run(tmp_path / "empty", steps=0)
    other = write_run(tmp_path / "other", questions=9)
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"id": "q0"}\n')
    (tmp_path / "folder").mkdir()
    refused = [
        ([str(tmp_path / "othr")], "othr; expected a run folder; did you mean 'other'?"),
        ([str(tmp_path / "folder")], "found no config.yaml; expected a run folder"),
        ([str(empty)], "found no row; expected one row an optimizer step"),
        ([str(run), str(run)], "expected every run folder once"),
        ([str(run), "--scores", "a", "--scores", "b"], "--scores: found 2 files; expected one for each of 1 runs"),
        ([str(run), "--scores", str(tmp_path / "none.jsonl")], "none.jsonl; expected a file that"),
        ([str(run), "--scores", str(broken)], "broken.jsonl:1: found a row without teacher"),
        ([str(run), "--scores", str(other / "scores.jsonl")], "found id 'q6'; expected questions of"),
        ([str(run), "--examples", "-1"], "'-1' is not a whole number from 0 on"),
    ]
    for words, expected in refused:
        assert cli.main(["report", *words]) == 2, words
        assert expected in capsys.readouterr().err


def test_runs_of_the_same_name_go_by_their_paths(run: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "first")
    assert [one.name for one in open_runs([run, other])] == [str(run), str(other)]
