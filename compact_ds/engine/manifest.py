"""What a checkpoint says of itself: its step, its run, and the size and hash of every file in it.

Owns `manifest.json`, which a checkpoint has exactly when it is whole, and the search for what does not agree with it. Hashes
tell damage, not intent: that a checkpoint runs no code when it is read is `checkpoint_files`'s.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from compact_ds.errors import UserError

NAME = "manifest.json"
FORMAT = 1

_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class FileFacts:
    """A file as it was written."""

    num_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class About:
    """What must be known of a checkpoint before any of its tensors is read.

    `step` is the next optimizer step, `identity` what must not change between the parts of a run, `frozen` a SHA-256 for every
    parameter that is not trained, `versions` those of the packages that wrote it.
    """

    step: int
    world_size: int
    zero_stage: int
    identity: dict[str, Any]
    frozen: dict[str, str]
    versions: dict[str, str]


@dataclass(frozen=True, slots=True)
class Manifest:
    """A checkpoint's facts and its files, by their path inside the folder."""

    about: About
    files: dict[str, FileFacts]


_FORM = TypeAdapter(Manifest)


def write(manifest: Manifest, folder: Path) -> Path:
    """Write `folder/manifest.json` and return its path."""
    content = {"format": FORMAT, **asdict(manifest)}
    file = folder / NAME
    file.write_text(_text(content | {"sha256": _digest(content)}), encoding="utf-8")
    return file


def read(folder: Path) -> Manifest:
    """The manifest of a checkpoint. Raises UserError when there is none or a byte of it has changed."""
    file = folder / NAME
    try:
        text = file.read_text(encoding="utf-8")
        content = json.loads(text)
        is_as_written = text == _text(content)
        said = content.pop("sha256")
    except OSError as error:
        raise _refusal(str(file), error.strerror or str(error)) from None
    except (ValueError, KeyError, AttributeError, TypeError):
        raise _refusal(str(file), "not a manifest") from None
    if said != _digest(content) or not is_as_written:
        raise _refusal(str(file), "a manifest that was changed after it was written")
    if content.pop("format", None) != FORMAT:
        raise _refusal(str(file), f"another format than {FORMAT}")
    try:
        found = _FORM.validate_json(json.dumps(content), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        raise _refusal(str(file), f"{'.'.join(map(str, first['loc']))}={first['input']!r:.60}") from None
    if folder.name != f"step-{found.about.step}" or found.about.world_size < 1:
        raise _refusal(str(file), f"step {found.about.step} by {found.about.world_size} ranks")
    return found


def listed(folder: Path) -> list[str]:
    """Paths inside a checkpoint of all its files but the manifest, sorted."""
    paths = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in paths if path != NAME)


def facts_of(file: Path) -> FileFacts:
    """Size and hash of a file, read in blocks."""
    digest, num_bytes = hashlib.sha256(), 0
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            digest.update(block)
            num_bytes += len(block)
    return FileFacts(num_bytes, digest.hexdigest())


def strangers(manifest: Manifest, folder: Path) -> list[str]:
    """Files that the manifest does not know, and those that it knows and that are not there."""
    found = set(listed(folder))
    unknown = [f"{name}: not in the manifest" for name in sorted(found - manifest.files.keys())]
    return unknown + [f"{name}: missing" for name in sorted(manifest.files.keys() - found)]


def damage(manifest: Manifest, folder: Path, names: Sequence[str]) -> list[str]:
    """Which of these files are not as they were written, and how that shows."""
    return [found for name in names if (found := _damage_of(folder / name, name, manifest.files[name]))]


def _damage_of(file: Path, name: str, facts: FileFacts) -> str | None:
    try:
        found = facts_of(file)
    except OSError as error:
        return f"{name}: {error.strerror}"
    if found.num_bytes != facts.num_bytes:
        return f"{name}: {found.num_bytes:,} bytes where {facts.num_bytes:,} were written"
    return None if found.sha256 == facts.sha256 else f"{name}: changed after it was written"


def _text(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=1) + "\n"


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _refusal(where: str, found: str) -> UserError:
    remedy = "take another checkpoint, or --trust if you know that this one is yours"
    return UserError(where, found, "the manifest that a whole checkpoint of ours has", remedy)


def together(facts: Iterable[dict[str, FileFacts]]) -> dict[str, FileFacts]:
    """The files of all ranks, sorted."""
    return dict(sorted((name, fact) for part in facts for name, fact in part.items()))
