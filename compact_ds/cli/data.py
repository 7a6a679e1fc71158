"""The commands under `compact-ds data`: parse, call, print; nothing else.

Every command imports what it needs when it runs.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from compact_ds.cli.arguments import add_json, not_negative, positive


def add_data(commands: Any) -> None:
    """Declare `data` and what is under it."""
    data = commands.add_parser("data", help="rationales: ask for them, import, check, count, draw").add_subparsers(
        metavar="COMMAND", required=True
    )
    _add_import(data)
    _add_verify(data)
    _add_stats(data)
    _add_graph(data)
    _add_generate(data)


def _add_import(data: Any) -> None:
    parser = data.add_parser("import", help="other people's files as questions with their rationales side by side")
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="[TEACHER=]SOURCE",
        help="a file, or a datasets path or id; the first names the questions",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="JSONL in the project's schema")
    parser.add_argument(
        "--shape",
        default="auto",
        choices=("auto", "schema", "flat", "chat", "generations"),
        help="of a row (default: auto)",
    )
    parser.add_argument(
        "--field", action="append", default=[], metavar="ROLE=NAME", help="a field's name in the source"
    )
    parser.add_argument(
        "--extract-answer", action="store_true", help="cut the gold answer out of the text that holds it"
    )
    parser.add_argument("--split", default="train", help="split of a datasets path or id (default: train)")
    add_json(parser)
    parser.set_defaults(run=_import)


def _add_verify(data: Any) -> None:
    parser = data.add_parser("verify", help="is each rationale's own final answer right?")
    parser.add_argument("source", metavar="SOURCE", help="a JSONL file, a datasets path or id, or task:NAME")
    parser.add_argument("--output", type=Path, metavar="FILE", help="the examples with is_correct and answer_found")
    parser.add_argument("--explain", action="store_true", help="why, beside each verdict in the output")
    parser.add_argument("--jobs", type=positive, default=1, metavar="J", help="processes (default: 1)")
    parser.add_argument("--split", default="train", help="split of a datasets path or id (default: train)")
    add_json(parser)
    parser.set_defaults(run=_verify)


def _add_stats(data: Any) -> None:
    stats = data.add_parser("stats", help="counts, lengths and how often each teacher is right")
    stats.add_argument("source", metavar="SOURCE", help="a JSONL file, a datasets path or id, or task:NAME")
    stats.add_argument("--split", default="train", help="split of a datasets path or id (default: train)")
    stats.add_argument(
        "--against", action="append", default=[], metavar="TEST", help="list questions that TEST has too"
    )
    add_json(stats)
    stats.set_defaults(run=_stats)


def _add_graph(data: Any) -> None:
    graph = data.add_parser("graph", help="one question's consensus graph, as text and as a picture")
    graph.add_argument("source", metavar="SOURCE", help="a JSONL file, a datasets path or id, or task:NAME")
    graph.add_argument("--id", required=True, metavar="ID", help="of the question")
    graph.add_argument("--output", type=Path, metavar="FILE", help="the picture, .svg or .png")
    graph.add_argument("--split", default="train", help="split of a datasets path or id (default: train)")
    graph.set_defaults(run=_graph)


def _add_generate(data: Any) -> None:
    generate = data.add_parser("generate", help="rationales of several teachers for questions; run again, it goes on")
    generate.add_argument("source", metavar="QUESTIONS", help="where the questions are, as data.train")
    generate.add_argument(
        "--teachers", type=Path, required=True, metavar="FILE", help="a YAML file with a `teachers` list"
    )
    generate.add_argument(
        "--output", type=Path, required=True, metavar="FILE", help="a JSONL file in the project's schema"
    )
    generate.add_argument("--split", default="train", help="split of a datasets path or id (default: train)")
    generate.add_argument(
        "--field", type=_field, action="append", default=[], metavar="ROLE=NAME", help="a field's name in the source"
    )
    generate.add_argument("--limit", type=positive, metavar="N", help="only the first N questions")
    generate.add_argument(
        "--max-failed",
        type=not_negative,
        default=0.02,
        metavar="SHARE",
        help="more failures are exit code 1 (default: 0.02)",
    )
    generate.add_argument(
        "--dry-run", action="store_true", help="print the calls left and what they may cost; ask nobody"
    )
    add_json(generate)
    generate.set_defaults(run=_generate)


def _field(text: str) -> tuple[str, str]:
    role, _, name = text.partition("=")
    if not role or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not ROLE=NAME, for example answer=solution")
    return role, name


def _stats(arguments: argparse.Namespace) -> int:
    from compact_ds.data.readers import read
    from compact_ds.data.stats import stats, table
    from compact_ds.sections import DataConfig

    data = DataConfig(train=arguments.source, split=arguments.split, max_steps=None)
    figures = stats(read(data.train, data, seed=0)) | _trust(data) | _overlaps(data, arguments.against)
    _print(figures, table, arguments.json)
    return 0


def _trust(data: Any) -> dict[str, Any]:
    """What the consensus makes of the teachers: estimated shares of right answers, and who copies whom."""
    from compact_ds.compatibility.consensus import reliability
    from compact_ds.compatibility.copies import as_voices, copies
    from compact_ds.data.readers import read

    copied = copies(read(data.train, data, 0))
    estimated = reliability(as_voices(example, copied) for example in read(data.train, data, 0))
    return {"copies": copied, "estimated": estimated}


def _overlaps(data: Any, tests: list[str]) -> dict[str, Any]:
    """Doubled questions, and per test file the training questions that it has too."""
    from compact_ds.data.overlap import contaminated, doubled_questions
    from compact_ds.data.readers import read

    found = {
        test: contaminated(read(data.train, data, 0), read(test, data.model_copy(update={"train": test}), 0))
        for test in tests
    }
    return {"doubled_questions": doubled_questions(read(data.train, data, 0)), "contaminated": found}


def _graph(arguments: argparse.Namespace) -> int:
    from compact_ds.compatibility.consensus import explain
    from compact_ds.compatibility.graph_picture import draw
    from compact_ds.data.readers import read
    from compact_ds.errors import UserError
    from compact_ds.sections import DataConfig

    data = DataConfig(train=arguments.source, split=arguments.split)
    example = next((example for example in read(data.train, data, 0) if example.id == arguments.id), None)
    if example is None:
        raise UserError("--id", arguments.id, f"the id of a question of {arguments.source}", "check the spelling")
    print(explain(example))
    if arguments.output is not None:
        draw(example, arguments.output)
    return 0


def _generate(arguments: argparse.Namespace) -> int:
    from compact_ds.data import generate
    from compact_ds.data.generate_output import table
    from compact_ds.sections import DataConfig

    fields, limit = dict(arguments.field), arguments.limit
    data = DataConfig(train=arguments.source, split=arguments.split, fields=fields, limit=limit)
    options = generate.Options(data, arguments.teachers, arguments.output, arguments.max_failed)
    if arguments.dry_run:
        _print(generate.plan(options), table, arguments.json)
        return 0
    totals = generate.run(options)
    _print(totals, table, arguments.json)
    if totals["failed"]:
        listed = f"{totals['failed']} failed, listed in {totals['failures']}; the same command asks for them again"
        sys.stderr.write(f"compact-ds: {listed}\n")
    return int(totals["failed_share"] > arguments.max_failed)


def _print(figures: dict[str, Any], table: Callable[[dict[str, Any]], Any], as_json: bool) -> None:
    from rich.console import Console

    if as_json:
        print(json.dumps(figures))
    else:
        Console().print(table(figures))


def _import(arguments: argparse.Namespace) -> int:
    from compact_ds.data.importers import Settings, Source, run
    from compact_ds.errors import UserError

    names = {}
    for word in arguments.field:
        role, equals, name = word.partition("=")
        if not equals:
            raise UserError("--field", word, "ROLE=NAME", "write for example --field question=problem")
        names[role] = name
    sources = []
    for word in arguments.sources:
        teacher, equals, path = word.partition("=")
        sources.append(Source(path, teacher) if equals and not Path(word).exists() else Source(word))
    report = run(sources, arguments.output, Settings(arguments.shape, names, arguments.extract_answer, arguments.split))
    found = {
        "questions": report.questions,
        "rationales": dict(report.rationales),
        "doubled": report.doubled,
        "without_answer": len(report.without_answer),
        "unjoined": len(report.unjoined),
        "blank": len(report.blank),
        "missing": dict(report.missing),
    }
    if arguments.json:
        print(json.dumps(found))
        return 0
    print(f"{report.questions} questions in {arguments.output}")
    for teacher, number in sorted(report.rationales.items()):
        print(f"  {teacher}: {number} rationales, {report.missing[teacher]} questions without one")
    print(
        f"{report.doubled} doubled; {len(report.without_answer)} without a gold answer, {len(report.unjoined)} not joined and "
        f"{len(report.blank)} blank rationales, which are listed in {arguments.output}.unjoined.jsonl"
    )
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from compact_ds.data.readers import read
    from compact_ds.data.verify import verify
    from compact_ds.sections import DataConfig

    data = DataConfig(train=arguments.source, split=arguments.split, max_steps=None)
    found = verify(read(data.train, data, seed=0), arguments.output, arguments.jobs, arguments.explain, None)
    if arguments.json:
        print(json.dumps(found))
        return 0
    for teacher, count in found["teachers"].items():
        share = count["right"] / count["rationales"]
        print(
            f"{teacher}: {count['rationales']} rationales, {share:.4f} right, {count['without_answer']} without an answer"
        )
    if found["agreement"] is not None:
        print(f"agrees with the source's verdicts: {found['agreement']:.4f}")
        for row in found["differ"]:
            print(f"  {row['id']} {row['teacher']}: the source says {row['given']}; {row['why']}")
    return 0
