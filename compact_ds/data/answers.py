"""What an answer sentence looks like, which answer it gives, and whether that equals the gold answer.

Owns the wording of conclusions and the comparison that accuracy rests on. Where the answer sentence stands in a
rationale is `steps`' concern.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

from compact_ds.data.sentences import pieces

_ADJECTIVE = r"(?:final|correct|right|best|numerical|most\s+\w+)\s+"
_VERB = (
    r"(?:\s+(?:is|are|was)(?:\s+(?:therefore|thus|then|simply|just))?|\s+(?:must|should|would|will|can\s+only|has\s+to)\s+be"
    r"|(?=\s*[:=]))"
)
_SUBJECT = (
    rf"(?:(?:(?:the|our|my|its)\s+)?(?:{_ADJECTIVE}){{0,3}}answer(?:\s+(?:to|for|of)\s+(?:the|this)\s+\w+)?"
    rf"|(?:the|our|my)\s+(?:{_ADJECTIVE}){{1,3}}(?:choice|option))"
)
# "## Answer" or "**Final answer**" on a line of its own; the answer is on the next.
_HEADING = rf"(?:#{{1,6}}[ \t]*|\*\*|__)[*_]*(?:the\s+)?(?:{_ADJECTIVE}){{0,3}}answer[*_]*[ \t]*\n\s*"
CONCLUSION = re.compile(
    rf"####\s*|{_HEADING}|\b{_SUBJECT}[*_]*{_VERB}(?!\s+not\b)\s*[:=]?[*_]*\s*:?",
    re.IGNORECASE,
)
"""The words that announce an answer; what follows them is the answer."""

_MAY_ANNOUNCE = re.compile("answer|choice|option|####", re.IGNORECASE)

_NUMBER = re.compile(
    r"(?P<sign>[-\u2212\u2013]\s?)?[$€£]?\s?(?P<inner>[-\u2212\u2013])?"
    r"(?P<value>(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)"
    r"(?:\s*/\s*(?P<below>\d+(?:\.\d+)?)(?![\d.]*\s*[=+*\u00d7÷])|\s+(?P<top>\d+)\s*/\s*(?P<under>\d+))?"
    r"(?:[eE](?P<power>[+-]?\d{1,2})\b)?"
)
# A student that repeats one digit for ever writes no number; Python refuses to convert 4,300 digits and more.
_LONGEST_NUMBER = 1000
_CALCULATION = re.compile(r"\s*(?:[-\u2212\u2013+*/\u00d7÷^x]\s*[$(]?\d)")
_FRACTION = re.compile(r"\\[dt]?frac\s*(?:\{(\d+)\}|(\d))\s*(?:\{(\d+)\}|(\d))")
# A number that is a factor of something else: 2\sqrt{3}, 2π, √2.
_ROOT_BEFORE = re.compile(r"(?:\u221a|\\sqrt\s*(?:\[\d+\])?\s*\{?)\s*\Z")
_FACTOR_AFTER = re.compile(r"\s*(?:\\(?:sqrt|pi|cdot|times|div)(?![A-Za-z])|[\u221a\u03c0])")
_GOLD_AROUND_NUMBER = re.compile(r"[\s$€£%.°]*")
_CHOICE = re.compile(
    r"(?:(?:option|choice|answer)\s+)?(?:\(([A-Za-z])\)|\[([A-Za-z])\]|([A-Za-z])(?=\Z|[).:,;]))", re.IGNORECASE
)
# "D is ..." and "A because ..." name choices, "A bank" and "I think" do not.
_BARE_CHOICE = re.compile(r"([B-HJ-Z])(?=\s)|([AI])(?=\s+(?:because|since)\b)")
BOXED = re.compile(r"\\boxed\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}")
"""An answer in a box, as deep in braces as a fraction of roots is."""

_EQUALS = re.compile(r"(?<![<>!=])=")
# What opens an aside after an answer: "20 minutes (1 hour = 60 minutes)", "B because F = ma", "12 apples and each box = 4".
_ASIDE = re.compile(
    r"(?<!\\)[(\[{]|(?<=\S)(?:[,;]|(?<=(?-i:[\dA-Z]))[:.])\s|—"
    r"|\S\s+(?:as|because|since|where|when|while|if|given|assuming|meaning|note|so|but|which|whose)\b"
    r"|\d[%°]?(?:\s+[A-Za-z]{2,}){4}",
    re.IGNORECASE,
)
# "(B) F = ma": the choice is the answer, the rest its wording.
_CHOSEN = re.compile(r"\s*[(\[]?[A-Z][)\]]\s+\S")
_BRACKETED = re.compile(r"[(\[{][^()\[\]{}]*[)\]}]")
_DEEPEST = 4

_ARTICLE = re.compile(r"\b(?:the|a|an)\b")
_YES_OR_NO = re.compile(r"[\W_]*(?:(yes|true|correct)|no|false|incorrect)\b", re.IGNORECASE)
# "No, it sinks" says no, "No child" is a text.
_SAID = re.compile(r"\s*[,;:!(]|[\W_]*\Z")

# Text that holds one of these is mathematics, in which no sign may be left out; a hyphen stands after a letter or digit.
_SIGN = re.compile(r"[\\^_{}+*/=<>()\[\]|√π±\u00d7\u00f7·\u2190-\u22ff]|(?<!\w)[-\u2013](?=[\w\\])|(?<![\w.])\.(?=\d)")
# Around mathematics or in it, without a meaning of their own.
_LAYOUT = re.compile(r"\\(?:left|right)(?![A-Za-z])|\\?[$%]|\\[()\[\],;:! ]")
# Markdown's emphasis and the brackets of an option's letter are no mathematics.
_EMPHASIS = re.compile(r"(?<!\w)(\*\*?|__?)(\w[^*_]*)\1(?!\w)")
_LETTER = re.compile(r"\A\s*[(\[]?([A-Za-z])[)\]](?=\s+[A-Za-z]|[.\s]*\Z)")
_SPACE_BETWEEN_SIGNS = re.compile(r"\s+(?!\d)|(?<!\d)\s+")


def final_answer(text: str) -> str | None:
    """The answer that the last answer sentence of `text` gives, without marks around it; None when there is none.

    Of a calculation (`The answer is 40 + 50 = 90.`) it is what stands after its last equals sign, one in an aside
    (`20 minutes (1 hour = 60 minutes)`) left alone; without an answer sentence a last `\\boxed{...}` counts as one.
    """
    announced = list(CONCLUSION.finditer(text)) or list(BOXED.finditer(text))
    if not announced:
        return None
    last = announced[-1]
    words = last.group() if last.re is CONCLUSION else ""
    rest = text[last.start() + len(words) :].lstrip()
    line = rest if rest.startswith(("\\[", "$$")) else rest.split("\n", 1)[0]
    # Cut together with what announces it: "7. He is glad" alone reads like item 7 of a list.
    sentence = pieces(f"{words.rstrip()} {line}")[0][len(words.rstrip()) :]
    boxed = BOXED.search(sentence)
    answer = boxed.group(1) if boxed else _result(sentence)
    answer = answer.strip().strip("*_`\"'“”").rstrip(".!").strip().strip("*_`\"'“”$").strip()
    return answer or None


def may_announce(text: str) -> bool:
    """Whether `text` has a word without which no answer is announced. Cheap; most texts that have one announce none."""
    return _MAY_ANNOUNCE.search(text) is not None


def through_answer(text: str) -> str | None:
    """`text` up to the end of its first answer sentence; None while that sentence may still go on.

    A sentence is over when another has begun or its line has ended. After `####`, which heads sections too, only a number
    counts.
    """
    if not may_announce(text):
        return None
    for announced in CONCLUSION.finditer(text):
        words = announced.group()
        rest = text[announced.end() :]
        answer = rest.lstrip()
        shown = answer.startswith(("\\[", "$$"))
        line, newline, _ = (answer, "", "") if shown else answer.partition("\n")
        if words.startswith("####") and (not newline or _whole_number(line) is None):
            continue
        begun = f"{words.rstrip()} {line}"
        sentence = pieces(begun)[0]
        if answer and (newline or len(sentence) < len(begun.rstrip())):
            return text[: announced.end()] + rest[: len(rest) - len(answer)] + sentence[len(words.rstrip()) + 1 :]
    return None


def same_answer(found: str | None, gold: str) -> bool:
    """Whether `found` says the same as `gold`.

    A gold number is compared exactly, as a fraction, with the first number in `found` (`$1,000.00`, `1000 apples`,
    `50%` for `50`, `1/2` for `0.5`); a gold letter with the choice that `found` names, in either case; gold yes or no
    with the one that `found` opens with, true and correct being yes, false and incorrect no; any other gold as text
    without case, punctuation, articles and extra white space, but sign by sign where either holds mathematics.
    """
    if found is None:
        return False
    number = _whole_number(gold)
    if number is not None:
        return _first_number(found) == number
    letter = _choice(gold) if len(gold.strip(" ().[]")) == 1 else None
    if letter is not None:
        return _choice(found) == letter
    said = _YES_OR_NO.match(gold)
    if said is not None and _SAID.match(gold, said.end()):
        claimed = _YES_OR_NO.match(found)
        return claimed is not None and (claimed[1] is None) == (said[1] is None)
    texts = [_EMPHASIS.sub(r"\2", _LETTER.sub(r"\1", text)) for text in (found, gold)]
    one, other = map(_signs if any(map(_SIGN.search, texts)) else _plain, texts)
    return one == other


def votes(teachers: Sequence[str], answers: Sequence[str | None]) -> list[int]:
    """How many different teachers give each answer, that of the rationale itself included; 0 for one that was not found."""
    return [
        len({t for t, other in zip(teachers, answers, strict=True) if other is not None and same_answer(other, answer)})
        if answer is not None
        else 0
        for answer in answers
    ]


def _result(text: str) -> str:
    """What the calculation or variable that opens `text` comes to; all of `text` where it opens with neither."""
    start = 0
    for equals in _EQUALS.finditer(text):
        left = text[start : equals.start()]
        if _CHOSEN.match(left):
            break
        for _ in range(_DEEPEST):
            left = _BRACKETED.sub("", left)
        if _ASIDE.search(left):
            break
        start = equals.end()
    return text[start:]


def _whole_number(text: str) -> Fraction | None:
    """The number that `text` is, with nothing but money, percent and a full stop around it."""
    text = _FRACTION.sub(_slashed, text)
    match = _NUMBER.search(text)
    if match is None or not _GOLD_AROUND_NUMBER.fullmatch(text[: match.start()] + text[match.end() :]):
        return None
    return _value(match)


def _first_number(text: str) -> Fraction | None:
    """The first number in `text` unless it opens a calculation whose result is not said, or is part of an expression."""
    result = _FRACTION.sub(_slashed, _result(text))
    match = _NUMBER.search(result)
    if match is None or any(one.match(result, match.end()) for one in (_CALCULATION, _FACTOR_AFTER)):
        return None
    return None if _ROOT_BEFORE.search(result[: match.start()]) else _value(match)


def _slashed(fraction: re.Match[str]) -> str:
    above, below = (group for group in fraction.groups() if group is not None)
    return f" {above}/{below}"


def _value(match: re.Match[str]) -> Fraction | None:
    if len(match.group()) > _LONGEST_NUMBER:
        return None
    below, under = match["below"], match["under"]
    if (below and not Fraction(below)) or (under and not Fraction(under)):
        return None
    value = Fraction(match["value"].replace(",", "")) * Fraction(10) ** int(match["power"] or 0)
    if below:
        value /= Fraction(below)
    if under:
        value += Fraction(int(match["top"]), int(under))
    return -value if match["sign"] or match["inner"] else value


def _choice(text: str) -> str | None:
    bare = text.strip().strip("*_`\"'")
    match = _CHOICE.match(bare) or _BARE_CHOICE.match(bare)
    return next(letter for letter in match.groups() if letter).upper() if match else None


def _plain(text: str) -> str:
    words = re.sub(r"[^\w\s]", " ", text.casefold())
    return " ".join(_ARTICLE.sub(" ", words).split()) or " ".join(words.split()) or text.strip()


def _signs(text: str) -> str:
    bare = _SPACE_BETWEEN_SIGNS.sub("", _LAYOUT.sub(" ", text)).casefold()
    return re.sub("[\u2212\u2013]", "-", bare).strip().rstrip(".")
