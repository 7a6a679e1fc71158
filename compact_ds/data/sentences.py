"""Cuts a text into sentences and lines without losing a character.

Owns where a sentence ends in teachers' prose, lists and equations. Knows nothing of answers (`answers`) or of
what counts as a step (`steps`).
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator

# Never the end of a sentence, whatever follows.
_ABBREVIATION = re.compile(
    r"mr|mrs|ms|dr|prof|st|sr|jr|rev|gen|col|lt|sgt|capt|vs|e\.g|i\.e|cf|approx|ca|eq|figs?|sec|ch|pp|al|viz|resp",
    re.IGNORECASE,
)
# The end of a sentence unless a number follows: "3 ft. 4 in.", "No. 5", "Jan. 3".
_BEFORE_NUMBERS = re.compile(
    r"nos?|ft|in|oz|lbs?|yd|mi|min|sec|hrs?|sq|pt|qt|gal|p|vol|jan|feb|mar|apr|jun|jul|aug|sept|oct|nov|dec",
    re.IGNORECASE,
)
# A capital letter before a full stop is an initial or an option's letter ("John F. Kennedy", "The answer is A. Bank")
# unless one of these opens the next sentence.
_STARTER = re.compile(
    r"the|this|that|these|those|so|therefore|thus|hence|its?|in|on|at|s?he|they|we|you|i|if|then|now|next|first|second|"
    r"third|finally|however|since|because|but|and|or|as|for|from|when|each|all|both|t?here|after|before|to|let(?:'s)?|"
    r"option|answer|an?|also|using|other|while|only",
    re.IGNORECASE,
)

# How many characters on either side of a place decide whether a sentence ends there; keeps the work linear in the text.
_VIEW = 200
_TABLE = r"(?m:^)[ \t]*\|[^\n]*\|[ \t]*(?:\n[ \t]*\|[^\n]*\|[ \t]*)+"
_PROTECTED = re.compile(
    r"<<[^<>]*>>|\\\[(?:(?!\\\[).)*?\\\]|\\\((?:(?!\\\().)*?\\\)|\$\$.*?\$\$|```.*?```|" + _TABLE, re.DOTALL
)
_STOP = re.compile(r"""(?<![.!?])[.!?]+["'\u201d\u2019)\]*_$\\]*(?=\s)|(?<=[a-z0-9)%])[.!?](?=[A-Z](?:[a-z]|:\s))""")
_GAP = re.compile(r"\s+")
# "... = 15Therefore, the answer is 15": the full stop was lost in the teacher's output.
_GLUED = re.compile(r"(?<=[0-9a-z)])(?=(?:Therefore|Thus|Hence|So),?\s|The answer\s)")
_MARKER = re.compile(
    r"\s*(?:[-*+•]|\(?(?:\d{1,3}|[A-Za-z]|[ivxIVX]{1,4})[.):]|step\s+\d{1,3}[.:)]?)[*_]*\s*\Z", re.IGNORECASE
)
_AFTER_COLON = re.compile(r"[:;]\s+\(?\d{1,2}\Z")
_OPEN_EQUATION = re.compile(r"(?:[=≈≠<>+\u00d7÷·/:]|\s[-*])\s*\Z")
_MORE_EQUATION = re.compile(r"\s*[=≈≠+\u00d7÷·]")
_LIST_ITEM = re.compile(r"\s*(?:[-*+•]\s|\(?\d{1,3}[.)]\s)")
# A line that announces the next ones: a heading in either of markdown's forms, a rule across the page, an opening tag.
_HEADING = re.compile(
    r"#{1,6}\s+[*_]*[A-Za-z].*|\*\*(?:(?:step|part|case)?\s*\d{1,3}\s*[.:)]\s*)?[A-Za-z][^\d=.!?:*]*\*\*"
    r"|-{3,}|\*{3,}|_{3,}|<\w+>",
    re.IGNORECASE,
)
_CLOSING_TAG = re.compile(r"</\w+>\s*\Z")
_CLOSED_BELOW = re.compile(r"\s*</\w+>")
# A line that does not end its sentence goes on with displayed mathematics, a table or one of these words.
_SENTENCE_END = re.compile(r"""[.!?;:]["'\u201d\u2019)\]*_$\\]*\s*\Z""")
_GOES_ON = re.compile(
    r"\s*(?:\\\[|\$\$|\\begin\b|\||(?:and|or|but|where|which|with|of|for|to|by|is|are|than|because|since|from)\s)"
)
_CAPITALISED = re.compile(r"\s*[A-Z][a-z]")
_VARIABLE = re.compile(r"\s*\$?[a-z]\s*[=+*/<>^-]")
_LAST_WORD = re.compile(r"""([^\s("'\u201c\u2018,;:]+)\Z""")
_NEXT_WORD = re.compile(r"""\s*["'\u201c\u2018(\[*_$#]*([\w']+)?""")


def pieces(text: str) -> list[str]:
    """The sentences and lines of `text` in order; joined they give `text` back.

    White space goes with what follows it, at the end of the text with what stands before it. No piece is blank unless
    `text` is. Numbers, abbreviations, `<<3*4=12>>` marks, display mathematics, code, tables and an equation or sentence
    that runs over several lines stay whole; a list marker stays with its item, a heading with what follows.
    """
    found: list[str] = []
    start, content, end = 0, _content(text, 0), len(text.rstrip())
    for place in _candidates(text):
        if content < place < end and _ends(text, start, place):
            found.append(text[start:place])
            start, content = place, _content(text, place)
    return [*found, text[start:]] if text else []


def _content(text: str, start: int) -> int:
    """Where the white space after `start` ends."""
    gap = _GAP.match(text, start)
    return gap.end() if gap else start


def _candidates(text: str) -> Iterator[int]:
    """Every place where a piece may end, before the white space that follows it, outside protected marks."""
    places = {match.end() for match in _STOP.finditer(text)}
    places.update(match.start() for match in _GAP.finditer(text) if "\n" in match.group())
    places.update(match.start() for match in _GLUED.finditer(text))
    shields = deque(match.span() for match in _PROTECTED.finditer(text))
    for place in sorted(places):
        while shields and shields[0][1] <= place:
            shields.popleft()
        if not (shields and shields[0][0] < place):
            yield place


def _ends(text: str, start: int, place: int) -> bool:
    before = text[max(start, place - _VIEW) : place]
    after = text[place : place + _VIEW]
    if place - start <= _VIEW and _MARKER.match(before):
        return False
    if "\n" in after[: len(after) - len(after.lstrip())]:
        return not _goes_on(before, after)
    following = _NEXT_WORD.match(after)
    word = (following.group(1) or "") if following else ""
    if word[:1].islower() and not _VARIABLE.match(after):
        return False
    stop = before.rstrip("\"'\u201d\u2019)]*_$\\")
    return not stop.endswith(".") or _full_stop_ends(stop.rstrip("."), word)


def _goes_on(before: str, after: str) -> bool:
    """Whether a line break stands inside an equation or sentence, after a heading, or between a colon and what it announces."""
    line = before.rpartition("\n")[2].strip()
    if _CLOSING_TAG.search(line):
        return False
    if _HEADING.fullmatch(line) or _CLOSED_BELOW.match(after):
        return True
    if _LIST_ITEM.match(after):
        return False
    if _OPEN_EQUATION.search(before) or _MORE_EQUATION.match(after):
        return True
    if before.endswith(","):
        return not _CAPITALISED.match(after)
    return bool(_GOES_ON.match(after)) and not _SENTENCE_END.search(before) and not line.endswith("|")


def _full_stop_ends(before: str, next_word: str) -> bool:
    """Whether the full stop after `before` ends a sentence when `next_word` follows."""
    last = _LAST_WORD.search(before)
    word = last.group(1) if last else ""
    if _ABBREVIATION.fullmatch(word):
        return False
    if _BEFORE_NUMBERS.fullmatch(word) and next_word[:1].isdigit():
        return False
    if word.isdigit() and _AFTER_COLON.search(before):
        return False
    if len(word) == 1 and word.isupper() and not _STARTER.fullmatch(next_word):
        earlier = before[: last.start()].split() if last else []
        return not (earlier and (earlier[-1][:1].isupper() or earlier[-1].lower().strip("*_:") in {"is", "answer"}))
    return True
