"""compact_ds: several teachers' written rationales distilled into one student, weighted by what the student makes of them.

From Python: `load_examples`, `save_examples`, `score_rationales`, `train_student`, `Callback`; imported when asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from compact_ds.api import load_examples, save_examples
    from compact_ds.api import score as score_rationales
    from compact_ds.api import train as train_student
    from compact_ds.callbacks import Callback

__all__ = ["Callback", "__version__", "load_examples", "save_examples", "score_rationales", "train_student"]

# `score` and `train` are modules of the package, so the functions have longer names here.
_PLACES = {
    "load_examples": ("compact_ds.api", "load_examples"),
    "save_examples": ("compact_ds.api", "save_examples"),
    "score_rationales": ("compact_ds.api", "score"),
    "train_student": ("compact_ds.api", "train"),
    "Callback": ("compact_ds.callbacks", "Callback"),
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    module, attribute = _PLACES[name]
    return getattr(importlib.import_module(module), attribute)
