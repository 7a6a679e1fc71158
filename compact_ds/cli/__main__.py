"""`python -m compact_ds.cli`, for runs that start other runs."""

from __future__ import annotations

import sys

from compact_ds.cli import main

if __name__ == "__main__":
    sys.exit(main())
