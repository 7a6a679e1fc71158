"""What several commands share on the way in and out: the --json switch, lists in arguments, and how figures are printed."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping
from typing import Any


def add_json(parser: argparse.ArgumentParser) -> None:
    """Declare --json."""
    parser.add_argument("--json", action="store_true", help="print JSON for a program")


def names(text: str) -> list[str]:
    """Names with commas between them."""
    return [name for name in text.split(",") if name]


def numbers(text: str) -> list[int]:
    """Whole numbers with commas between them. Raises what argparse turns into a usage error."""
    try:
        return [int(number) for number in names(text)]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers with commas between them") from None


def count(text: str) -> int:
    """A whole number from 0 on. Raises what argparse turns into a usage error."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 on")
    return int(text)


def positive(text: str) -> int:
    """A whole number from 1 on. Raises what argparse turns into a usage error."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def not_negative(text: str) -> float:
    """A number from 0 on. Raises what argparse turns into a usage error."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 on")
    return number


def print_figures(result: Mapping[str, Any], as_json: bool) -> None:
    """Figures by name, as one JSON object or a line each."""
    if as_json:
        print(json.dumps(result))
        return
    width = max(map(len, result))
    for name, value in result.items():
        print(f"{name:<{width}}  {value:.4f}" if isinstance(value, float) else f"{name:<{width}}  {value}")
