"""A hundred rationales cut by hand: the independent truth for the step cutter.

Owns the rule and how labels are written; the labels are in `labelled_plain`, `labelled_lists` and `labelled_long`.
They were set before the cutter saw the texts, by this rule. A step is a sentence, a list item or a line that carries
one thought. A line that ends in a colon, or breaks off in the middle of its sentence or equation, goes with what
completes it, unless that is a list. A heading (a line that opens with # or a bold line without a full stop), a rule
across the page and an opening tag go with what follows, a closing tag with what it closes. A block of code, a table
and display mathematics are not cut, and go with the sentence that announces them by a colon or breaks off before
them. The answer sentence is the one at the end that announces the answer, which follows: by that word, by "choice" or
"option", by #### or by a box; what the sentence reasons before it announces is a step.

Written here as the text itself with three marks: a bar after each step, so that what follows the last bar is the answer
sentence; a tilde where a line goes on; %% between two texts. White space goes with what follows it.
"""

from __future__ import annotations

import labelled_lists
import labelled_long
import labelled_plain


def read(marked: dict[str, str]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """The style and the pieces of each marked text; the last piece is the answer sentence, "" when there is none."""
    return tuple(
        (style, tuple(text.replace("~\n", "").split("¦")))
        for style, texts in marked.items()
        for text in texts.strip("\n").split("\n%%\n")
    )


LABELLED = read(labelled_plain.MARKED | labelled_lists.MARKED | labelled_long.MARKED)
