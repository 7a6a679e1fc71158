"""The checkpoints of one run: what it goes on from, what it writes, and what becomes of a failure.

Owns the run's policy. How a checkpoint is written and read is `engine.checkpoint`'s, what two parts of a run must share
`identity`'s.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any

from compact_ds import __version__
from compact_ds.engine import checkpoint
from compact_ds.engine.checkpoint_folder import warn_of_strangers
from compact_ds.engine.manifest import About
from compact_ds.engine.ranks import Ranks
from compact_ds.engine.start import Engine
from compact_ds.errors import UserError
from compact_ds.run import identity
from compact_ds.sections import Config

VERSIONS = {"compact_ds": __version__} | {name: version(name) for name in ("torch", "deepspeed", "transformers")}
"""What a checkpoint says that it was written by."""

_LOG = logging.getLogger(__name__)


class RunCheckpoints:
    """Made by all ranks before anything is written; `universal` says how the engine must be set up to read."""

    def __init__(self, config: Config, ranks: Ranks, own: Mapping[str, Any], trust: bool) -> None:
        """`own` is the run's identity. Raises UserError on all ranks when it is not theirs all, or the newest checkpoint
        is damaged or another run's.
        """
        self._config, self._ranks, self._own, self._trust = config, ranks, dict(own), trust
        self._folder = config.run_dir / "checkpoints"
        identity.check_ranks(self._own, ranks)
        if ranks.is_first:
            warn_of_strangers(config.run_dir)
        self._found = checkpoint.find(self._folder, ranks, trust)
        if self._found is not None and self._found.manifest is not None:
            about = self._found.manifest.about
            identity.check(about.identity, self._own, self._found.folder.name)
            self._say_what_changed(about)
        self.universal = checkpoint.is_universal(self._found, ranks.world_size)

    def load(self, engine: Engine, put: Callable[[dict[str, Any]], None]) -> int:
        """The next step, 0 when there is no checkpoint; `put` gets the state that `save` was given. Raises UserError."""
        if self._found is None:
            return 0
        state = checkpoint.load(engine, self._ranks, self._found, self._trust)
        # Of a checkpoint without a manifest this is known only now.
        identity.check(state["about"]["identity"], self._own, self._found.folder.name)
        try:
            put(state)
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            where, remedy = str(self._found.folder / checkpoint.STATE), "take another checkpoint"
            raise UserError(where, f"{type(error).__name__}: {error}", "the state of this run", remedy) from None
        return int(state["about"]["step"])

    def save(self, engine: Engine, step: int, state: dict[str, Any], or_say: bool = False) -> bool:
        """Write a checkpoint; whether there is one. Raises UserError on all ranks alike when that fails, or only says so."""
        config = self._config
        about = About(step, self._ranks.world_size, engine.zero_stage, self._own, engine.frozen, VERSIONS)
        keep = (config.checkpoint_keep, config.checkpoint_keep_every)
        try:
            checkpoint.save(engine, self._ranks, self._folder, about, state, keep)
        except UserError as error:
            if not or_say:
                raise
            if self._ranks.is_first:
                _LOG.warning("no checkpoint at step %d, going on without: %s", step, error)
            return False
        return True

    def _say_what_changed(self, about: About) -> None:
        if not self._ranks.is_first:
            return
        others = [
            f"{name} {was}, now {VERSIONS.get(name)}"
            for name, was in about.versions.items()
            if was != VERSIONS.get(name)
        ]
        if others:
            _LOG.warning("step-%d was written by %s", about.step, "; ".join(others))
        if about.world_size != self._ranks.world_size:
            _LOG.info(
                "step-%d was written by %d ranks and is read by %d; a step has %d questions as before, %d a rank",
                about.step, about.world_size, self._ranks.world_size,
                self._config.data.batch_size, self._config.data.batch_size // self._ranks.world_size,
            )  # fmt: skip
