"""The picture of a consensus graph: what is written in it, and what cannot be drawn."""

import xml.etree.ElementTree as tree
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")

from test_consensus import by_number, example

from compact_ds.compatibility.consensus import graph, mainstream
from compact_ds.compatibility.graph_picture import draw
from compact_ds.errors import UserError


def test_the_mainstream_is_the_way_of_most(tmp_path: Path) -> None:
    made = by_number(("ada", [5, 6], 9), ("ben", [5, 6], 9), ("cleo", [5, 8], 9), ("dan", [7], 4))
    assert mainstream(graph(made)) == ["question", "= 5", "= 6", "answer 9"]
    assert mainstream(graph(example(("ada", "It makes 2 + 3 = 5.")))) == ["question"]


def test_the_picture_shows_teachers_and_costs_of_dollars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib

    monkeypatch.setitem(matplotlib.rcParams, "svg.fonttype", "none")
    made = example(
        ("ada", "He pays $3 + $4 = $7.\nThe answer is $7"), ("b$n", "He pays 9.\nThe answer is 9"), question="What $x ?"
    )
    draw(made, tmp_path / "graph.svg")
    shown = " ".join("".join(node.itertext()) for node in tree.parse(tmp_path / "graph.svg").iter())
    for words in ("ada: C = 0.00", "b$n: C = 0.00", "= 7", "answer 9", "What $x ?"):
        assert words in shown
    draw(made, tmp_path / "graph.png")
    assert (tmp_path / "graph.png").read_bytes()[:4] == b"\x89PNG"


def test_another_ending_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"\.svg or \.png"):
        draw(example(("ada", "x")), tmp_path / "graph.bmp")
