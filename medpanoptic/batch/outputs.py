"""Result folders of a batch: a marker, written last, says that one is whole and what is in it.

Order: the old marker goes, the result folder takes its place at once (``write_result``), its files are hashed as they
lie on the disk, the new marker comes by rename. Cut anywhere, a folder without a valid marker is not done.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from medpanoptic.batch.keys import file_digest

MARKER = "batch.json"
_FIELDS = {
    "study", "kind", "state", "fingerprint", "input_digest", "model_hash", "parameter_hash", "things", "fallback",
    "outputs",
}  # fmt: skip


def remove_marker(folder: Path) -> None:
    """Declare a result folder not done."""
    with suppress(FileNotFoundError):
        (folder / MARKER).unlink()
        sync_folder(folder)


def write_marker(folder: Path, fields: Mapping[str, Any]) -> dict[str, str]:
    """Hash every file of a result folder and declare it done; return file -> SHA-256."""
    outputs = {
        path.relative_to(folder).as_posix(): file_digest(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MARKER
    }
    draft = folder / f".{MARKER}.part"
    with draft.open("w", encoding="utf-8", newline="\n") as file:
        json.dump({**fields, "outputs": outputs}, file, sort_keys=True, indent=0)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(folder / MARKER)
    sync_folder(folder)
    return outputs


def read_marker(folder: Path) -> dict[str, Any] | None:
    """Return what a marker says, None where there is none or it is not whole."""
    try:
        marker = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return marker if isinstance(marker, dict) and set(marker) >= _FIELDS else None


def is_whole(folder: Path, outputs: Mapping[str, str]) -> bool:
    """Tell whether every output is there with the hash that was noted."""
    try:
        return bool(outputs) and all(file_digest(folder / name) == digest for name, digest in outputs.items())
    except OSError:
        return False


def results(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the markers of all result folders: what a lost ledger is made again from."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        marker = None if path.name.startswith(".") else read_marker(path)
        if marker is not None and marker["study"] == path.name:
            yield marker


def remove_drafts(results_folder: Path, work: Path, study: str = "") -> int:
    """Delete what killed processes left behind, of all studies or of one; return how much it was.

    Only while nobody works on them.
    """
    # write_result fills .NAME.xxxxxxxx.part and puts an old result aside as .old; nothing else there starts with a dot
    drafts = [*results_folder.glob(f".{study}.*" if study else ".*"), *work.glob(f"{study}.*" if study else "*")]
    for path in drafts:
        shutil.rmtree(path, ignore_errors=True)
    return len(drafts)


def sync_folder(folder: Path) -> None:
    """Bring a rename to the disk; Windows has no such call and does not need it."""
    if os.name != "nt":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
