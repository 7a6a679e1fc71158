"""The config: what is read, what is refused and in which words, and that nothing is lost on the way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from compact_ds.config import load, save
from compact_ds.errors import ConfigError
from compact_ds.sections import METHODS, Config, Section

ROOT = Path(__file__).parents[1]
SHIPPED = sorted((ROOT / "configs").glob("*.yaml"))


def _file(folder: Path, text: str) -> Path:
    file = folder / "run.yaml"
    file.write_text(text)
    return file


MINIMAL = """\
run_dir: runs/x
max_steps: 3
data:
  train: train.jsonl
student:
  model: folder
"""


@pytest.fixture
def minimal(tmp_path: Path) -> Path:
    return _file(tmp_path, MINIMAL)


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_shipped_configs_load_unedited_or_name_the_one_key_to_give(file: Path) -> None:
    needs_data = "train" not in yaml.safe_load(file.read_text())["data"]
    if needs_data:
        with pytest.raises(ConfigError, match=r"data\.train: found nothing; .* data\.train=VALUE"):
            load(file)
    loaded = load(file, ["data.train=train.jsonl"] if needs_data else [])
    assert loaded.run_dir == Path("runs") / file.stem


@pytest.mark.parametrize("file", sorted((ROOT / "configs" / "deepspeed").glob("*.json")), ids=lambda file: file.stem)
def test_shipped_deepspeed_files_leave_our_keys_alone(file: Path) -> None:
    ours = {"train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping"}
    ours |= {"optimizer", "scheduler", "bf16", "fp16", "steps_per_print"}
    keys = json.loads(file.read_text())
    assert not ours & keys.keys()
    assert keys["zero_optimization"]["stage"] == int(file.stem.removeprefix("zero")[0])


def test_a_shipped_config_is_found_by_name() -> None:
    assert load("arithmetic") == load(ROOT / "configs" / "arithmetic.yaml") == load("configs/arithmetic.yaml")


def test_a_missing_file_names_the_nearest_shipped_one() -> None:
    with pytest.raises(ConfigError, match=r"^arithmetik: found no such file; .* did you mean 'arithmetic'\?"):
        load("arithmetik")
    with pytest.raises(ConfigError, match=r"elsewhere/arithmetic\.yaml: found no such file"):
        load("elsewhere/arithmetic.yaml")


@pytest.mark.parametrize(
    ("key", "nearest"),
    [("max_stps", "max_steps"), ("data.batchsize", "batch_size"), ("compatibility.alpa", "alpha")],
)
def test_an_unknown_key_names_the_nearest_known_one_of_its_section(minimal: Path, key: str, nearest: str) -> None:
    with pytest.raises(ConfigError, match=rf"{key}: found 1; expected a known config key; did you mean '{nearest}'\?"):
        load(minimal, [f"{key}=1"])


def test_an_unknown_key_in_an_optional_section_too(minimal: Path) -> None:
    with pytest.raises(ConfigError, match=r"student\.lora\.rr: .* did you mean 'r'\?"):
        load(minimal, ["student.lora={rr: 8}"])


def test_overrides_are_yaml_and_later_ones_win(minimal: Path) -> None:
    given = ["optimizer.lr=1.0e-2", "optimizer.lr=3.0e-4", "data.teachers=[a, b]", "seed=7", "data.eval="]
    loaded = load(minimal, given)
    assert loaded.optimizer.lr == 3e-4
    assert (loaded.data.teachers, loaded.seed, loaded.data.eval) == (["a", "b"], 7, None)


def test_a_float_in_the_short_form_is_a_number(minimal: Path) -> None:
    assert load(minimal, ["optimizer.lr=1e-3"]).optimizer.lr == 1e-3


def test_an_override_makes_the_section_that_was_null(tmp_path: Path) -> None:
    file = _file(tmp_path, MINIMAL + "  lora: null\n")
    assert load(file).student.lora is None
    lora = load(file, ["student.lora.r=8"]).student.lora
    assert lora is not None
    assert (lora.r, lora.alpha) == (8, 32.0)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "command line: found seed; expected key=value"),
        ("=3", "command line: found =3; expected key=value"),
        ("max_steps.x=3", "max_steps.x: found 3; expected a section at max_steps"),
        ("data.fields={a", "data.fields: found {a; expected a YAML value"),
        ("max_steps=0", "max_steps: found 0; expected input should be greater than or equal to 1"),
        ("engine.zero_stage=4", "engine.zero_stage: found 4; expected input should be 0, 1, 2 or 3"),
        ("method=compat", "method: found compat; expected a method; did you mean 'compact'?"),
        ("method='single:'", "method: found single:; expected a method; did you mean 'single:TEACHER'?"),
        ("student.model=scratch", "student.scratch: found no student.scratch"),
    ],
)
def test_a_wrong_override_names_key_value_and_expectation(minimal: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(minimal, [override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("method", [*METHODS, "single:gpt-4o", "single:a b:c"])
def test_methods(minimal: Path, method: str) -> None:
    assert load(minimal, [f"method={json.dumps(method)}"]).method == method


def test_a_missing_key_says_how_to_give_it(tmp_path: Path) -> None:
    file = _file(tmp_path, MINIMAL.replace("max_steps: 3\n", ""))
    with pytest.raises(ConfigError, match=r"max_steps: found nothing; .* give it in the file or as max_steps=VALUE"):
        load(file)


def test_broken_yaml_names_the_line(tmp_path: Path) -> None:
    file = _file(tmp_path, "run_dir: x\nmax_steps: [3\ndata: {}\n")
    with pytest.raises(ConfigError, match=r"run\.yaml:3: "):
        load(file)


def test_a_key_given_twice_is_refused_with_both_lines(tmp_path: Path) -> None:
    file = _file(tmp_path, MINIMAL + "data:\n  batch_size: 8\n")
    with pytest.raises(ConfigError, match=r"run\.yaml:7: found the key data again, as on line 3; expected valid YAML"):
        load(file)


def test_a_key_given_twice_on_one_line_is_refused(tmp_path: Path) -> None:
    file = _file(tmp_path, MINIMAL + "compatibility: {tau: 0.5, tau: 0.7}\n")
    with pytest.raises(ConfigError, match=r"run\.yaml:7: found the key tau again, as on line 7"):
        load(file)


def test_a_merged_mapping_may_be_overridden(tmp_path: Path) -> None:
    text = MINIMAL + "compatibility: {<<: {tau: 0.5, floor: 0.1}, tau: 0.7}\n"
    loaded = load(_file(tmp_path, text)).compatibility
    assert (loaded.tau, loaded.floor) == (0.7, 0.1)


def test_a_file_that_is_not_utf8_names_the_line(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_bytes(b"max_steps: 3\nrun_dir: caf\xe9\n")
    with pytest.raises(ConfigError, match=r"run\.yaml:2: found byte 0xe9; expected YAML in UTF-8"):
        load(file)


def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"run\.yaml: found list; expected a mapping of config keys"):
        load(_file(tmp_path, "- 1\n"))


def test_yaml_makes_no_objects(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="could not determine a constructor"):
        load(_file(tmp_path, "run_dir: !!python/object/apply:os.getcwd []\n"))


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_saved_and_loaded_it_is_equal(file: Path, tmp_path: Path) -> None:
    overrides = ["data.train=train.jsonl", "student.lora={r: 4}", "engine.deepspeed=configs/deepspeed/zero2.json"]
    before = load(file, overrides)
    save(before, tmp_path / "config.yaml")
    assert load(tmp_path / "config.yaml") == before


def test_every_setting_has_its_own_documentation() -> None:
    def undocumented(section: type[Section], prefix: str) -> list[str]:
        missing = []
        for name, field in section.model_fields.items():
            inner = [a for a in (field.annotation, *getattr(field.annotation, "__args__", ())) if _is_section(a)]
            for part in inner:
                missing += undocumented(part, f"{prefix}{name}.")
            if not inner and not field.description:
                missing.append(prefix + name)
        return missing

    assert undocumented(Config, "") == []


def _is_section(annotation: object) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Section)
