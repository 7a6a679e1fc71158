"""`analyze` from outside: states against one prompt at a time, figures against numpy on whole arrays, files, refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from google.protobuf import text_format  # type: ignore[import-untyped]
from tensorboard.plugins.projector import projector_config_pb2  # type: ignore[import-untyped]
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from compact_ds.cli import main
from compact_ds.data.readers import read
from compact_ds.data.records import Example, Rationale
from compact_ds.evaluation.analysis import _named, teachers
from compact_ds.evaluation.latent_space import SAMPLED, _counted, states_of
from compact_ds.evaluation.prompts import Prompt, prompts_of
from compact_ds.sections import DataConfig, StudentConfig
from compact_ds.student.load import load_tokenizer
from compact_ds.tree.tokenise import Tokeniser

TOKENISER = Tokeniser(load_tokenizer(StudentConfig(model="scratch", tokenizer="task:arithmetic")), "\nThe answer is ")
EXAMPLES = list(read("task:arithmetic", DataConfig(train="task:arithmetic"), 0, limit=4))


def student(seed: int, moved: float = 0.0) -> PreTrainedModel:
    """A random Llama, and the same one with noise on its weights."""
    torch.manual_seed(0)
    lm: PreTrainedModel = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(
            "llama", vocab_size=len(TOKENISER.tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=2, initializer_range=0.3, bos_token_id=None, eos_token_id=None,
            pad_token_id=None,
        )
    )  # fmt: skip
    torch.manual_seed(seed)
    with torch.no_grad():
        for weight in lm.parameters():
            weight.add_(moved * torch.randn_like(weight))
    lm.eval()
    return lm


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    made = [tmp_path_factory.mktemp(name) for name in ("before", "after")]
    for folder, lm in zip(made, (student(0), student(1, 0.05)), strict=True):
        lm.save_pretrained(folder)
        TOKENISER.tokenizer.save_pretrained(folder)
    return [str(folder) for folder in made]


def test_which_tokens_count() -> None:
    """A question once, whatever its rationales; nothing that all questions begin with."""
    steps = ("one plus two .",)
    ask = [Example(f"e{i}", q, "3", (), "f") for i, q in enumerate(("what does 1 make ?", "what does 2 make ?"))]
    several = replace(ask[1], rationales=(Rationale("ada", steps, ""), Rationale("ben", steps, "")))
    prompts, cut = prompts_of([ask[0], several], TOKENISER, 100)
    assert cut == 0
    assert [(p.question, p.teacher, p.first, p.start) for p in prompts] == [
        (0, None, 2, 5), (1, "ada", 2, 5), (1, "ben", 5, 5)
    ]  # fmt: skip
    assert [len(p.ids) for p in prompts] == [5, 10, 10]  # four words and the end of text
    assert [p.first for p in prompts_of(ask[:1], TOKENISER, 100)[0]] == [1]
    short, cut = prompts_of([several], TOKENISER, 7)
    assert cut == 2 and [len(p.ids) for p in short] == [7, 7]


def test_states_in_padded_batches_are_those_of_each_prompt_alone() -> None:
    before, after = student(0), student(1, 0.05)
    prompts, _ = prompts_of(EXAMPLES, TOKENISER, 1000)
    found = states_of(before, after, prompts, 1, 5, 0, "arithmetic")
    counted: list[list[npt.NDArray[np.float64]]] = [[], []]
    for prompt in prompts:
        for side, lm in enumerate((before, after)):
            with torch.no_grad():
                hidden = lm(torch.from_numpy(prompt.ids)[None].long(), output_hidden_states=True).hidden_states
            counted[side].append(torch.stack([h[0, prompt.first :] for h in hidden]).double().numpy())
    arrays = [np.concatenate(side, axis=1) for side in counted]
    for layer, moments in enumerate(found.layers):
        x, y = (array[layer] - array[layer].mean(0) for array in arrays)
        want = np.linalg.norm(x.T @ y) ** 2 / np.linalg.norm(x.T @ x) / np.linalg.norm(y.T @ y)
        cosine = (arrays[0][layer] * arrays[1][layer]).sum(1) / np.prod(
            [np.linalg.norm(a[layer], axis=1) for a in arrays], 0
        )
        assert moments.count == arrays[0].shape[1]
        # fp32 states, which padding changes in their last digits.
        assert moments.cka == pytest.approx(want, abs=1e-5)
        assert moments.drift == pytest.approx(1 - cosine.mean(), abs=1e-5)
    assert 0.5 < found.layers[1].cka < 0.9999
    sample = found.sample_after_SD.numpy()
    assert len(sample) == min(SAMPLED, arrays[0].shape[1])
    nearest = np.abs(sample[:, None] - arrays[1][1][None]).max(2).min(1)
    assert nearest.max() < 1e-5 and len(np.unique(sample.round(4), axis=0)) > 0.5 * len(sample)
    for prompt, mean in zip(found.pooled, found.pooled_before_PD, strict=True):
        place = next(i for i, other in enumerate(prompts) if other is prompt)
        length = len(prompt.ids) - prompt.start
        assert np.allclose(mean, counted[0][place][1][-length:].mean(0), atol=1e-5)
    figures = teachers(found)
    assert figures["chance"] == 1 / 4 and set(figures["drift"]) == {"ada", "ben", "cleo"}


def test_the_command_writes_figures_and_pictures(
    folders: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    words = ["analyze", *folders, "--data", "task:arithmetic", "--other", "task:arithmetic:eval", "--limit", "6"]
    assert main([*words, "--top", "3", "--output", str(tmp_path), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert json.loads((tmp_path / "latent.json").read_text()) == figures
    assert list(figures["sources"]) == ["task:arithmetic", "task:arithmetic:eval"]
    assert figures["layer"] == 1 and len(figures["sources"]["task:arithmetic"]["layers"]) == 3
    assert figures["weights"]["matrices_changed"] == 2 * 7 + 2
    for name in ("layers", "states", "teachers", "weights"):
        assert (tmp_path / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
    assert main([*words, "--top", "3"]) == 0
    text = capsys.readouterr().out
    assert "task:arithmetic: 6 questions" in text and "16 matrices changed" in text
    assert max(map(len, text.splitlines())) <= 80


def test_the_projector_gets_both_sides_of_every_rationale(folders: list[str], tmp_path: Path) -> None:
    words = ["analyze", *folders, "--data", "task:arithmetic", "--limit", "4", "--no-plot", "--output", str(tmp_path)]
    assert main([*words, "--layer", "2", "--json", "--top", "3"]) == 0
    config = projector_config_pb2.ProjectorConfig()
    board = tmp_path / "tensorboard"
    text_format.Parse((board / "projector_config.pbtxt").read_text(), config)
    rationales, tokens = config.embeddings
    assert "tokens" in tokens.tensor_name and "rationales" in rationales.tensor_name
    head, *labels = [line.split("\t") for line in (board / rationales.metadata_path).read_text().splitlines()]
    points = np.loadtxt(board / rationales.tensor_path)
    assert head == ["side", "teacher", "question"] and len(labels) == len(points) == 2 * 4 * 3
    assert [side for side, _, _ in labels] == ["before"] * 12 + ["after"] * 12
    # One of them by hand: the last layer's mean over the rationale's tokens, each side by its own student.
    ids, _ = TOKENISER.rationale(EXAMPLES[1].rationales[2])
    whole = np.concatenate((TOKENISER.prompt(EXAMPLES[1].question), ids))
    for side, folder in zip(("before", "after"), folders, strict=True):
        with torch.no_grad():
            lm = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
            last = lm(torch.from_numpy(whole)[None].long(), output_hidden_states=True).hidden_states[2][0]
        place = labels.index([side, EXAMPLES[1].rationales[2].teacher, "1"])
        assert points[place] == pytest.approx(last[-len(ids) :].mean(0).numpy(), abs=1e-5)
    sides = (board / tokens.metadata_path).read_text().splitlines()
    assert sides == ["before"] * (len(sides) // 2) + ["after"] * (len(sides) // 2)
    assert len(np.loadtxt(board / tokens.tensor_path)) == len(sides) > 20


def test_a_student_against_itself_moved_nowhere(folders: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    words = ["analyze", folders[0], folders[0], "--data", "task:arithmetic", "--limit", "4", "--no-plot", "--json"]
    assert main(words) == 0
    figures = json.loads(capsys.readouterr().out)
    for layer in figures["sources"]["task:arithmetic"]["layers"]:
        assert layer["cka"] == pytest.approx(1, abs=1e-12) and layer["kept"] == pytest.approx(1, abs=1e-12)
        assert abs(layer["drift"]) < 1e-12 and layer["angle_largest"] < 1e-5
    assert figures["weights"]["matrices_changed"] == 0
    assert {row["relative_change"] for row in figures["weights"]["parameters"]} == {0.0}


def test_questions_are_of_the_test_split_unless_said(
    folders: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets is a dependency of the package")
    rows = [{"id": str(n), "question": f"{n} plus 4", "answer": "7",
             "rationales": [{"teacher": "ada", "text": "it is 7 .\nThe answer is 7"}]} for n in range(3)]  # fmt: skip
    splits = {"train": datasets.Dataset.from_list(rows[:2]), "test": datasets.Dataset.from_list(rows[2:])}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "both")
    words = ["analyze", *folders, "--data", str(tmp_path / "both"), "--top", "1", "--no-plot", "--json"]
    for split, questions in (([], 1), (["--split", "train"], 2)):
        assert main([*words, *split]) == 0
        (source,) = json.loads(capsys.readouterr().out)["sources"].values()
        assert source["questions"] == questions


def test_sources_have_the_shortest_names_that_tell_them_apart(tmp_path: Path) -> None:
    files = [tmp_path / place for place in ("a/test.jsonl", "b/test.jsonl", "c.jsonl")]
    for file in files:
        file.parent.mkdir(exist_ok=True)
        file.write_text("")
    given = [*map(str, files), "task:arithmetic"]
    assert _named(given) == dict(zip(["a/test", "b/test", "c", "task:arithmetic"], given, strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--layer", "9"], "--layer: found 9; expected 0 to 2"),
        (["--top", "17"], "--top: found 17; expected 1 to 16"),
        (["--data", "nowhere.jsonl"], "nowhere.jsonl: found no such file"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    folders: list[str], options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["analyze", *folders, "--data", "task:arithmetic", "--no-plot", *options]) == 2
    assert message in capsys.readouterr().err


def test_a_prompt_cut_before_its_first_counted_token_counts_nothing() -> None:
    cut, whole = (
        Prompt(np.arange(size, dtype=np.int32), first, size, i) for i, (size, first) in enumerate([(4, 6), (5, 3)])
    )
    assert _counted([cut, whole], 8).tolist() == [11, 12]
