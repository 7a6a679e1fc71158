"""One cell of a sweep as a process: `python -m compact_ds.launcher.sweep_cell CONFIG WORLD_SIZE key=value ...`.

Owns the fresh start: what an earlier, interrupted run of the cell left is removed, because a few steps are not worth resuming.
"""

from __future__ import annotations

import shutil
import sys

from compact_ds.config import load
from compact_ds.errors import ERROR_PREFIX, EXIT_CODE, UserError
from compact_ds.launcher.launch import launch


def main(arguments: list[str]) -> int:
    """Run the cell; the exit code of `launch`."""
    config, world_size, *overrides = arguments
    try:
        folder = load(config, overrides).run_dir
        if folder.is_dir() and not (folder / "summary.json").is_file():
            shutil.rmtree(folder)
        return launch(config, overrides, int(world_size))
    except UserError as error:
        sys.stderr.write(f"{ERROR_PREFIX}{error}\n")
        return EXIT_CODE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
