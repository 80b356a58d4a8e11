"""Secrets at rest: sealed with a key file, so that a copy of the database gives nothing away."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken


class SealError(Exception):
    """The key file is missing, open to others, or not the one that sealed this secret."""


class Sealer:
    """Seals and opens texts with one key (Fernet: AES-128-CBC and HMAC-SHA256)."""

    def __init__(self, key: bytes) -> None:
        self._fernet = Fernet(key)

    @classmethod
    def from_file(cls, path: Path) -> Sealer:
        """The sealer of a key file. Raises SealError when it is missing or others can read it."""
        try:
            mode = path.stat().st_mode
            key = path.read_bytes().strip()
        except FileNotFoundError:
            raise SealError(
                f"key file {path} is missing: run `isthmus init`, or restore it from backup"
            ) from None
        if mode & 0o077:
            raise SealError(f"key file {path} can be read by others: run `chmod 600 {path}`")
        try:
            return cls(key)
        except ValueError:
            raise SealError(f"key file {path} does not hold a key: restore it from backup") from None

    @staticmethod
    def fingerprint(path: Path) -> str:
        """What tells a key file from others, and gives nothing of it away. Raises SealError when it is missing."""
        try:
            key = path.read_bytes().strip()
        except FileNotFoundError:
            raise SealError(
                f"key file {path} is missing: run `isthmus init`, or restore it from backup"
            ) from None
        return hashlib.sha256(b"isthmus key " + key).hexdigest()[:16]

    @staticmethod
    def create_file(path: Path) -> None:
        """Write a new key, mode 0600; an existing file is left alone."""
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return
        with os.fdopen(handle, "wb") as file:
            file.write(Fernet.generate_key() + b"\n")

    def seal(self, text: str) -> str:
        """The sealed form of ``text``."""
        return self._fernet.encrypt(text.encode()).decode()

    def open(self, sealed: str) -> str:
        """The text again. Raises SealError under another key."""
        try:
            return self._fernet.decrypt(sealed.encode()).decode()
        except InvalidToken:
            raise SealError(
                "a stored secret was sealed with another key file: restore the old key file"
            ) from None
