"""From YAML and `key=value` overrides to the typed config, and its resolved copy in the run folder.

Owns files, overrides and the wording of what is wrong. Names, types, bounds and defaults are declared in `sections`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from compact_ds.errors import ConfigError, nearest
from compact_ds.sections import Config

SHIPPED = Path(__file__).resolve().parent / "configs"


def load(path: str | Path, overrides: list[str] | None = None) -> Config:
    """The config of a YAML file, or of a shipped one named without folder or ending, under `key=value` overrides.

    Values are YAML (`optimizer.lr=1e-3`, `student.lora={r: 8}`). Raises ConfigError.
    """
    file = find(path)
    raw = plain_data(file) or {}
    if not isinstance(raw, dict):
        raise ConfigError(str(file), type(raw).__name__, "a mapping of config keys", f"see {SHIPPED}/arithmetic.yaml")
    for override in overrides or []:
        override_key(raw, override)
    return resolve(raw, str(file), [override.partition("=")[0] for override in overrides or []])


def plain_data(file: Path) -> Any:
    """What a YAML file says. Raises ConfigError where it is no YAML in UTF-8 or gives a key twice."""
    try:
        return _OnceEach(file.read_bytes().decode("utf-8")).get_single_data()
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        found = f"byte {error.object[error.start]:#04x}"
        raise ConfigError(f"{file}:{line}", found, "YAML in UTF-8", "save the file as UTF-8") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{file}:{mark.line + 1}" if mark else str(file)
        raise ConfigError(where, getattr(error, "problem", "broken YAML"), "valid YAML", "mend the line") from None


class _OnceEach(yaml.SafeLoader):
    """`yaml.safe_load`'s loader, but that it refuses a key which a mapping has already.

    YAML forbids it; PyYAML drops the first value without a word.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        first: dict[str, int] = {}
        for key, _ in node.value:
            # `<<` merges another mapping, and may do so again.
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in first:
                    problem = f"the key {key.value} again, as on line {first[key.value]}"
                    raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
                first[key.value] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)


def find(path: str | Path) -> Path:
    """The config file itself, or the shipped one of that name. Raises ConfigError."""
    file = Path(path)
    if file.is_file():
        return file
    name = file.name if file.suffix in (".yaml", ".yml") else f"{file.name}.yaml"
    if (SHIPPED / name).is_file() and file.parent in (Path("."), Path("configs")):
        return SHIPPED / name
    shipped = [f.stem for f in SHIPPED.glob("*.yaml")]
    raise ConfigError(str(path), "no such file", "a config file or a shipped name", nearest(file.stem, shipped))


def deepspeed_file(path: Path) -> Path:
    """The file of `engine.deepspeed`: as it stands, or the shipped one when `configs/deepspeed/NAME` is not here."""
    shipped = SHIPPED / "deepspeed" / path.name
    return shipped if not path.is_file() and path.parent == Path("configs/deepspeed") and shipped.is_file() else path


def resolve(raw: dict[str, Any], source: str, overridden: Sequence[str] = ()) -> Config:
    """The typed config of plain data, from `source` but for the `overridden` keys. Raises ConfigError for the first wrong one."""
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        own = first.get("ctx", {}).get("error")
        if isinstance(own, ConfigError):
            raise own from None
        key = ".".join(str(part) for part in first["loc"])
        of_command = any(f"{key}.".startswith(f"{own}.") for own in overridden)
        where = f"{'command line' if of_command else source}: {key}" if key else source
        if first["type"] == "extra_forbidden":
            remedy = nearest(str(first["loc"][-1]), _keys_beside(first["loc"]))
            raise ConfigError(where, first["input"], "a known config key", remedy) from None
        if first["type"] == "missing":
            raise ConfigError(where, "nothing", "a value", f"give it in the file or as {key}=VALUE") from None
        if first["type"] in ("model_type", "dict_type"):
            raise ConfigError(where, first["input"], "a section", f"give its keys: {key}.KEY=VALUE") from None
        if first["type"] == "list_type":
            raise ConfigError(where, first["input"], "a list", f"write {key}=[{first['input']}]") from None
        raise ConfigError(where, first["input"], first["msg"].lower(), "change the value") from None


def save(config: Config, file: Path) -> None:
    """Write the resolved config as YAML that `load` reads back to an equal one."""
    file.write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False), encoding="utf-8")


def override_key(raw: dict[str, Any], override: str) -> None:
    """Set one `key=value` in plain data, making sections on the way. Raises ConfigError."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError("command line", override, "key=value", "write for example optimizer.lr=1e-3")
    *path, last = key.split(".")
    for name in path:
        if raw.get(name) is None:
            raw[name] = {}
        raw = raw[name]
        if not isinstance(raw, dict):
            raise ConfigError(key, raw, f"a section at {name}", "override a key inside a section")
    try:
        raw[last] = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(key, text, "a YAML value", "quote it") from None


def keys(section: Any = Config, prefix: str = "") -> Iterator[str]:
    """Every key, as `optimizer.lr`."""
    for name, field in section.model_fields.items():
        inner = _section(field.annotation)
        yield from keys(inner, f"{prefix}{name}.") if inner is not None else (f"{prefix}{name}",)


def _keys_beside(location: tuple[int | str, ...]) -> list[str]:
    section: Any = Config
    for part in location[:-1]:
        section = _section(section.model_fields[str(part)].annotation)
    return list(section.model_fields)


def _section(annotation: Any) -> Any:
    """The section that a field holds, optional or not; None for a plain value."""
    return next((a for a in (annotation, *getattr(annotation, "__args__", ())) if hasattr(a, "model_fields")), None)
