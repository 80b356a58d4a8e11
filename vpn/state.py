"""What an agent keeps on disk: its key, the last document it applied, and enrolments under way.

Every file is 0600 and written whole or not at all, so that a kill at any moment leaves the old or the new.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import IO

from vpn import keys
from vpn.document import GatewayDocument


class StateError(Exception):
    """The state directory cannot be used, in words."""


class State:
    """The directory, made 0700 when it is not there."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StateError(f"cannot make state directory {directory}: {error.strerror}") from error
        self._lock: IO[str] | None = None

    @property
    def key_file(self) -> Path:
        """Where the gateway's private key is; ``wg`` reads it from there."""
        return self.directory / "private.key"

    def lock(self) -> None:
        """Hold the directory until the process ends. Raises StateError when another agent does."""
        handle = (self.directory / "lock").open("w")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            handle.close()
            raise StateError(
                f"another agent works in {self.directory}; stop it or use another --state"
            ) from error
        self._lock = handle

    def public_key(self) -> str:
        """The gateway's public key; its private key is made here at the first call and never leaves the host."""
        if not self.key_file.exists():
            private, _ = keys.generate()
            self.write("private.key", private + "\n")
        try:
            return keys.public_of(self.key_file.read_text(encoding="ascii").strip())
        except ValueError as error:
            raise StateError(
                f"{self.key_file} holds no WireGuard key; remove it to make a new one"
            ) from error

    def document(self) -> GatewayDocument | None:
        """The last document that was applied; None when there is none that can be read."""
        text = self.read("document.json")
        if text is None:
            return None
        try:
            document = GatewayDocument.from_json(text)
        except ValueError:
            return None
        return None if document.problems() else document

    def save_document(self, document: GatewayDocument) -> None:
        """Keep a document for the next start."""
        self.write("document.json", document.to_json())

    def read(self, name: str) -> str | None:
        """A file's text; None when there is none."""
        try:
            return (self.directory / name).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None

    def write(self, name: str, text: str) -> None:
        """Replace a file atomically and durably."""
        path, fresh = self.directory / name, self.directory / f".{name}.new"
        fresh.unlink(missing_ok=True)
        handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        fresh.replace(path)
