"""The arguments that say which run is meant, declared once for every command that takes a config."""

from __future__ import annotations

import argparse


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare CONFIG, `key=value` overrides and --resume, as `config`, `overrides` and `resume`."""
    add_config_arguments(parser)
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint of the run folder")
    parser.add_argument(
        "--trust", action="store_true", help="read a checkpoint whose manifest is missing or wrong, code in it included"
    )


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare CONFIG and `key=value` overrides, as `config` and `overrides`."""
    parser.add_argument(
        "config", metavar="CONFIG", help="a YAML file, or the name of a shipped one, such as arithmetic"
    )
    add_override_arguments(parser)


def add_override_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare `key=value` overrides, as `overrides`."""
    parser.add_argument("overrides", metavar="key=value", nargs="*", help="settings over the file's: optimizer.lr=1e-3")


def take_late_overrides(arguments: argparse.Namespace, rest: list[str]) -> list[str]:
    """Move `key=value` words that argparse left over, since an option stood before them, and return the other words."""
    late = [word for word in rest if "=" in word and not word.startswith("-") and hasattr(arguments, "overrides")]
    if late:
        arguments.overrides = [*arguments.overrides, *late]
    return [word for word in rest if word not in late]
