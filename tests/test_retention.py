"""Loss of texts against transformers' own, and figures of what a student keeps, by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_student import TOKENISER, tiny_student

from compact_ds.errors import ConfigError, DataError
from compact_ds.evaluation import perplexity as module
from compact_ds.evaluation.perplexity import perplexity, text_losses, texts_of
from compact_ds.evaluation.retention import drops, measure_retention, retention_sets

TEXTS = ("4 plus 2 makes 6 . The answer is 6 . 1", "7 max 3 € 7", "8")


@pytest.fixture(scope="module")
def lm() -> Any:
    return tiny_student()


def test_losses_are_those_of_transformers_in_every_window(lm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WINDOW", 5)
    nats = tokens = 0.0
    for text in TEXTS:
        ids = TOKENISER.tokenizer(text)["input_ids"]
        for start in range(0, len(ids), 5):
            window = torch.tensor([ids[start : start + 5]])
            if window.shape[1] > 1:
                with torch.no_grad():
                    nats += float(lm(input_ids=window, labels=window).loss) * (window.shape[1] - 1)
                tokens += window.shape[1] - 1
    rows = text_losses(lm, TOKENISER, TEXTS, 2, progress=False)
    found = perplexity(rows)
    assert found["tokens"] == tokens
    assert found["text_loss"] == pytest.approx(nats / tokens, abs=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(nats / tokens), rel=1e-4)
    assert [row["window"] for row in rows] == list(range(len(rows)))
    # Without a start token nothing foretells the first word of a window, so its bytes do not count either.
    assert TOKENISER.tokenizer.bos_token_id is None
    size = 0
    for text in TEXTS:
        words = TOKENISER.tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
        for start in range(0, len(words), 5):
            window = words[start : start + 5]
            end = words[start + 5][0] if start + 5 < len(words) else len(text)
            size += len(text[window[1][0] : end].encode()) if len(window) > 1 else 0
    assert found["bits_per_byte"] == pytest.approx(nats / math.log(2) / size, rel=1e-5)


def test_texts_of_which_no_token_is_foretold_are_refused(lm: Any) -> None:
    rows = text_losses(lm, TOKENISER, ["8", "7"], 2, progress=False)
    with pytest.raises(DataError, match="no token that is foretold"):
        perplexity(rows)


def test_texts_of_files(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo")
    (tmp_path / "b.jsonl").write_text('{"text": "one"}\n\n{"text": "two"}\n')
    (tmp_path / "c.jsonl").write_text('{"text": "one"}\n{"words": 1}\n')
    assert texts_of(tmp_path / "a.txt") == ["one\ntwo"]
    assert texts_of(tmp_path / "b.jsonl") == ["one", "two"]
    with pytest.raises(DataError, match=r'c\.jsonl:2: found \{"words": 1\}; expected text'):
        texts_of(tmp_path / "c.jsonl")


def test_files_of_questions_and_texts_in_shares(lm: Any, tmp_path: Path) -> None:
    questions = [
        {"id": f"q{i}", "question": f"{i} plus 4 ? choices: A: 7 B: 5 C: 1", "answer": "ABC"[i % 3]} for i in range(5)
    ]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(q) + "\n" for q in questions))
    (tmp_path / "t.txt").write_text("\n".join(TEXTS * 90))
    files = [str(tmp_path / name) for name in ("q.jsonl", "t.txt")]
    line = {"title": "A long enough title", "text": "three plus four"}
    (tmp_path / "t.jsonl").write_text(json.dumps(line) + "\n")
    assert retention_sets([str(tmp_path / "t.jsonl")], None)[0].texts == ("three plus four",)
    kept = retention_sets(files, 4)
    names = [own.name for own in kept]
    assert names == [f"{tmp_path.name}/q", f"{tmp_path.name}/t"]
    assert len(kept[0].questions) == 4 and len(kept[1].texts) > 1 and kept[1].texts[0].startswith(TEXTS[0])
    whole = measure_retention(lm, TOKENISER, kept, 8, slice(0, None, 1), lambda rows: [rows], progress=False)
    assert whole[names[0]]["n"] == 4
    parts = [0, 1]

    def other(rank: int) -> Any:
        held: list[Any] = []

        def keep(rows: Any) -> list[Any]:
            held.append(rows)
            return [rows]

        measure_retention(lm, TOKENISER, kept, 8, slice(rank, None, 2), keep, progress=False)
        return held

    both = [other(rank) for rank in parts]
    joined = iter(list(zip(*both, strict=True)))
    assert measure_retention(
        lm, TOKENISER, kept, 8, slice(0, None, 2), lambda _: list(next(joined)), progress=False
    ) == {name: pytest.approx(figures, rel=1e-6) for name, figures in whole.items()}
    with pytest.raises(ConfigError, match=r"evaluation\.retention"):
        retention_sets([files[0], files[0]], None)


def test_drops_by_hand() -> None:
    before = {"q": {"accuracy": 0.5, "n": 4}, "t": {"text_loss": 2.0}}
    after = {"q": {"accuracy": 0.25, "n": 4}, "t": {"text_loss": 2.5}, "new": {"accuracy": 1.0}}
    assert drops(before, after) == {"q": 0.25, "t": 0.5}
