"""What a command writes beside its answer: progress bars, remarks, other libraries' warnings.

Owns what of it is shown. What is said is for those who say it; errors are always shown.
"""

from __future__ import annotations

import logging
import os
import warnings

from compact_ds.remarks import show_remarks


def set_up(quiet: bool) -> None:
    """Before anything heavy is imported, since tqdm reads its switch then; started ranks and runs inherit that switch."""
    # What torch, transformers and DeepSpeed will change one day is for us to follow, not for a user to read at every step.
    for category in (FutureWarning, DeprecationWarning):
        warnings.filterwarnings("ignore", category=category)
    if os.environ.get("RANK", "0") == "0":
        show_remarks()
    if quiet:
        os.environ["TQDM_DISABLE"] = "1"
        logging.getLogger("compact_ds").setLevel(logging.WARNING)
