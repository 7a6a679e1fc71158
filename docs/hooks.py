"""What the documentation site adds to the pages in this folder: their order, the references, links into the code.

Owns what is made when the site is built. The references come from the declarations themselves, so they are never behind.
"""

from __future__ import annotations

import argparse
import ast
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
_LOG = logging.getLogger("mkdocs.hooks")

ORDER = {
    "Begin": ("index", "start", "method", "architecture"),
    "Guides": ("data", "report", "mixing", "baselines", "analysis", "latent", "api", "extending"),
    "Running": ("clusters", "reliability", "planning", "speed", "kernels"),
    "Results": ("results", "study"),
    "Reference": ("troubleshooting", "configuration", "commands", "files"),
}
"""Sections of the site; a page that is not there yet is left out, and one that no section names comes last."""

_LINK = re.compile(r"\[([^\]]+)\]\(\.\./([^)#]+)(?:#[^)]*)?\)")


def on_config(config: Any) -> Any:
    """The order of pages."""
    config["nav"] = navigation()
    return config


def on_files(files: Any, config: Any) -> Any:
    """The generated pages."""
    from mkdocs.structure.files import File

    for name, page in GENERATED.items():
        files.append(File.generated(config, f"{name}.md", content=page()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links to files outside this folder become their names: a built site has no such files. Missing ones are warned of."""
    for _, target in _LINK.findall(markdown):
        if not (ROOT / target).exists():
            _LOG.warning("%s links to ../%s, which is not there", page.file.src_path, target)
    return _LINK.sub(r"\1", markdown)


def navigation() -> list[dict[str, list[str]]]:
    """Section -> its pages that exist."""
    there = {file.stem for file in DOCS.glob("*.md")} | set(GENERATED)
    named = {name for names in ORDER.values() for name in names}
    sections = {title: [f"{name}.md" for name in names if name in there] for title, names in ORDER.items()}
    sections["Guides"] += [f"{name}.md" for name in sorted(there - named)]
    return [{title: pages} for title, pages in sections.items() if pages]


def configuration_page() -> str:
    """Every setting: key, type, default, bounds, meaning."""
    from compact_ds.sections import Config

    lines = [
        "# Configuration",
        "",
        "Every key can stand in a YAML file or on the command line as `key=value`. Unknown keys are refused. A key without a",
        "default must be given.",
    ]
    for path, section in _sections(Config, ""):
        lines += ["", f"## {path or 'The run'}", "", " ".join((section.__doc__ or "").split()), ""]
        lines += ["| key | type | default | meaning |", "|---|---|---|---|"]
        for name, field in section.model_fields.items():
            if _section_of(field.annotation) is None or (not field.is_required() and field.default is None):
                lines.append(_row(f"{path}.{name}" if path else name, field))
    return "\n".join(lines) + "\n"


def _sections(section: Any, path: str) -> Iterator[tuple[str, Any]]:
    yield path, section
    for name, field in section.model_fields.items():
        inner = _section_of(field.annotation)
        if inner is not None:
            yield from _sections(inner, f"{path}.{name}" if path else name)


def _section_of(annotation: Any) -> Any:
    inner = (annotation, *getattr(annotation, "__args__", ()))
    return next((one for one in inner if hasattr(one, "model_fields")), None)


def _row(key: str, field: Any) -> str:
    default = "" if field.is_required() else f"`{_shown(field)}`"
    bounds = ", ".join(_bound(rule) for rule in field.metadata if _bound(rule))
    kind = _kind(field.annotation) + (f", {bounds}" if bounds else "")
    meaning = " ".join((field.description or "").split())
    return f"| `{key}` | {_cell(kind)} | {_cell(default)} | {_cell(meaning)} |"


def _shown(field: Any) -> str:
    value = field.get_default(call_default_factory=True)
    return "empty" if value is None else repr(str(value)) if isinstance(value, Path) else repr(value)


def _kind(annotation: Any) -> str:
    text = (
        annotation.__name__ if isinstance(annotation, type) and not hasattr(annotation, "__args__") else str(annotation)
    )
    text = re.sub(r"typing\.|pathlib\.|compact_ds\.[\w.]*\.", "", text).replace("NoneType", "None")
    return re.sub(r"Literal\[(.*?)\]", lambda m: " or ".join(m[1].replace("'", "").split(", ")), text)


def _bound(rule: Any) -> str:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<", "min_length": "length ≥", "max_length": "length ≤"}
    return " ".join(
        f"{sign} {getattr(rule, name)}" for name, sign in signs.items() if getattr(rule, name, None) is not None
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def commands_page() -> str:
    """The help of every command, as it is printed."""
    from compact_ds import cli

    lines = [
        "# Commands",
        "",
        "What `--help` prints. `key=value` settings are those of the [configuration](configuration.md).",
    ]
    for parser in cli.parsers(cli._parser()):
        parser.formatter_class = lambda prog: argparse.RawDescriptionHelpFormatter(prog, width=96)
        lines += ["", f"## {parser.prog}", "", "```text", parser.format_help().rstrip(), "```"]
    return "\n".join(lines) + "\n"


def files_page() -> str:
    """Every module with the first sentence that it says of itself."""
    lines = [
        "# Files",
        "",
        "What each file says of itself first. How they hang together is in [a batch's way](architecture.md).",
    ]
    for folder in ("compact_ds", "kernels", "launcher"):
        modules = sorted(file for file in (ROOT / folder).glob("**/*.py") if file.name != "__init__.py")
        for parent in dict.fromkeys(file.parent for file in sorted(modules, key=lambda file: (file.parent, file.name))):
            lines += ["", f"## {parent.relative_to(ROOT)}/", "", "| file | |", "|---|---|"]
            lines += [f"| `{file.name}` | {_cell(_opening(file))} |" for file in modules if file.parent == parent]
    return "\n".join(lines) + "\n"


def _opening(file: Path) -> str:
    text = " ".join((ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").split("\n\n")[0].split())
    return text.partition(". ")[0].rstrip(".")


GENERATED = {"configuration": configuration_page, "commands": commands_page, "files": files_page}
"""Pages that are made of the code, by name."""
