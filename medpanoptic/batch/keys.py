"""Names that tell studies apart and tell nobody who they are: keyed hashes, and digests of content and settings."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from medpanoptic.bundle import Bundle
from medpanoptic.errors import BatchError

_KEY_BYTES = 32
# 80 bits: a million studies collide with probability 4e-13
_HANDLE_DIGITS = 20
_BLOCK = 2**20


def load_key(path: Path) -> bytes:
    """Return the secret key of a batch (32 bytes, in the file as hex); make one, readable by its owner alone.

    Whoever has the key can tell which study a handle means. Raises BatchError (BATCH-KEY) for a file that is no key.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return _read_key(path)
    except OSError as error:
        raise BatchError("BATCH-KEY", f"{path} cannot be written: {error.strerror}") from error
    key = secrets.token_bytes(_KEY_BYTES)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(key.hex() + "\n")
        file.flush()
        os.fsync(file.fileno())
    return key


def _read_key(path: Path) -> bytes:
    try:
        key = bytes.fromhex(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        key = b""
    if len(key) < _KEY_BYTES:
        raise BatchError("BATCH-KEY", f"{path} is not a key: {2 * _KEY_BYTES} hex digits are expected")
    return key


def study_handle(key: bytes, name: str) -> str:
    """Return the name of a study in logs, ledger and folders: 20 hex digits of HMAC-SHA256.

    name : its StudyInstanceUID, or for other files the absolute path.
    """
    return hmac.new(key, name.encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()[:_HANDLE_DIGITS]


def fingerprint(key: bytes, files: Iterable[tuple[str, int, int]]) -> str:
    """Return a keyed hash of (path, bytes, modification time in ns): the same means that nothing was touched."""
    keyed = hmac.new(key, digestmod=hashlib.sha256)
    for path, size, mtime_ns in sorted(files):
        keyed.update(f"{len(path)}:{path}:{size}:{mtime_ns};".encode("utf-8", "surrogateescape"))
    return keyed.hexdigest()


def file_digest(path: Path) -> str:
    """Return the SHA-256 (hex) of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def content_digest(digests: Iterable[str]) -> str:
    """Return the digest of a study from those of its files: names, order and second copies do not count."""
    return hashlib.sha256("".join(sorted(set(digests))).encode()).hexdigest()


def model_hash(bundle: Bundle) -> str:
    """Return what names a model to a batch: weights, network, preprocessing and decoding."""
    digest = hashlib.sha256(bundle.weights_sha256.encode())
    for name in ("metadata.json", "inference.json"):
        digest.update((bundle.folder / "configs" / name).read_bytes())
    return digest.hexdigest()


def parameter_hash(parameters: Mapping[str, Any]) -> str:
    """Return the SHA-256 (hex) of settings that change an output."""
    return hashlib.sha256(json.dumps(parameters, sort_keys=True).encode()).hexdigest()
