"""The configs of a bundle, held to be data: no expression, no reference, no target outside an allow-list, no code.

Source: MONAI advisory GHSA-873f-pvrv-4x83.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from medpanoptic.errors import ModelError

_MAX_CONFIG_BYTES = 4 * 2**20
_MAX_DEPTH = 32
_CODE_SUFFIXES = {".py", ".pyc", ".pyd", ".pyw", ".so", ".dll", ".pkl", ".pickle"}
_LARGEST_NUMBER, _LONGEST_LIST = 10_000, 256
# beginnings with a meaning for MONAI: expression, reference, macro
_CODE_MARKS = ("$", "@", "%")


def check_files(folder: Path) -> None:
    """Refuse what would only be there to be run, and links that lead out of the folder."""
    inside = folder.resolve()
    for path in sorted(folder.rglob("*")):
        where = path.relative_to(folder).as_posix()
        if path.is_symlink() and not path.resolve().is_relative_to(inside):
            raise ModelError("BUNDLE-UNSAFE", f"bundle {folder.name}: {where} is a link that leads out of the bundle")
        if path.suffix.lower() in _CODE_SUFFIXES:
            raise ModelError(
                "BUNDLE-UNSAFE", f"bundle {folder.name} holds Python code ({where}), not allowed: remove it"
            )
        if path.suffix.lower() in {".yaml", ".yml"}:
            raise ModelError("BUNDLE-UNSAFE", f"bundle {folder.name}: YAML is not allowed ({where}), use JSON configs")


def check_sizes(inference: Mapping[str, Any]) -> None:
    """Refuse numbers that no network has: the layers would fill the memory or never be done (BUNDLE-SCHEMA)."""
    for key, value, _ in _walk(inference, "inference.json"):
        is_large = isinstance(value, (int, float)) and abs(value) > _LARGEST_NUMBER
        if is_large or (isinstance(value, (list, dict)) and len(value) > _LONGEST_LIST):
            raise ModelError("BUNDLE-SCHEMA", f"inference.json: {key!r} is larger than any network takes")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of a bundle. Raises ModelError (BUNDLE-SCHEMA)."""
    where = f"bundle {path.parent.parent.name}: {path.parent.name}/{path.name}"
    try:
        if path.stat().st_size > _MAX_CONFIG_BYTES:
            raise ModelError("BUNDLE-SCHEMA", f"{where} is larger than {_MAX_CONFIG_BYTES >> 20} MiB")
        data = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_constant)
    except OSError as error:
        raise ModelError("BUNDLE-SCHEMA", f"{where} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else str(error)
        raise ModelError("BUNDLE-SCHEMA", f"{where} is invalid JSON: {reason}") from error
    if not isinstance(data, dict):
        raise ModelError("BUNDLE-SCHEMA", f"{where} must be an object, found {type(data).__name__}")
    return data


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")


def check_data(data: Mapping[str, Any], name: str, targets: tuple[str, ...] | None) -> None:
    """Refuse expressions, references, macros and targets outside ``targets``. Raises ModelError (BUNDLE-UNSAFE).

    targets : None takes any name without a module.
    """
    for key, value, inside in _walk(data, name):
        if isinstance(value, str) and value.startswith(_CODE_MARKS):
            what = f"an expression or reference ({value[:1]}...) at {key!r}"
        elif key != "_target_" and key.startswith(("_", *_CODE_MARKS)):
            what = f"the key {key[:40]!r}"
        elif key == "_target_" and (inside or not _is_target(value, targets)):
            what = f"_target_ {str(value)[:80]!r} (only {', '.join(targets or ['plain names'])})"
        else:
            continue
        raise ModelError("BUNDLE-UNSAFE", f"{name}: {what} is not allowed; a bundle is data, not code")


def _is_target(value: Any, targets: tuple[str, ...] | None) -> bool:
    return isinstance(value, str) and (value.isidentifier() if targets is None else value in targets)


def _walk(data: Any, name: str, inside: bool = False, depth: int = 0) -> Iterator[tuple[str, Any, bool]]:
    """Yield every (key or "", value, whether it lies below an object that has a target)."""
    if depth > _MAX_DEPTH:
        raise ModelError("BUNDLE-SCHEMA", f"{name} is nested too deep")
    pairs = data.items() if isinstance(data, dict) else [("", v) for v in data] if isinstance(data, list) else []
    below = inside or (isinstance(data, dict) and "_target_" in data)
    for key, value in pairs:
        yield str(key), value, inside
        yield from _walk(value, name, below, depth + 1)
