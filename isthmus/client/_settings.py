"""Which broker to speak to, and as whom.

Precedence: arguments, then ``ISTHMUS_URL``, ``ISTHMUS_TOKEN`` and ``ISTHMUS_CA``, then the file
``~/.config/isthmus/client.toml`` with the keys ``url``, ``token`` and ``ca``. The file's token and CA belong
to the file's address: they are never sent to another one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from isthmus.client._errors import ConfigurationError

_HOW = "run `isthmus init` on the broker's machine, or set ISTHMUS_URL and ISTHMUS_TOKEN"


@dataclass(frozen=True)
class Settings:
    """``ca`` is a file of PEM certificates that may sign the broker's; None for the system's own."""

    url: str
    token: str | None
    ca: str | None


def settings_path(environ: Mapping[str, str]) -> Path:
    """The client's file in the home of that environment."""
    home = environ.get("HOME")
    return (Path(home) if home else Path.home()) / ".config" / "isthmus" / "client.toml"


def load_settings(url: str | None, token: str | None, ca: str | None, environ: Mapping[str, str]) -> Settings:
    """Settings from arguments, environment and file. Raises ConfigurationError."""
    url = url or environ.get("ISTHMUS_URL")
    token = token or environ.get("ISTHMUS_TOKEN")
    ca = ca or environ.get("ISTHMUS_CA")
    if not (url and token):
        file = _read(settings_path(environ))
        if url is None or _same(url, file.get("url")):
            url = url or file.get("url")
            token = token or file.get("token")
            ca = ca or file.get("ca")
    if not url:
        raise ConfigurationError("no broker is named", code="no_url", hint=_HOW)
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigurationError(
            f"{url!r} is not the address of a broker",
            code="bad_url",
            hint="use http://HOST:8770 or https://HOST:8770",
        )
    return Settings(url.rstrip("/"), token, ca)


def _same(one: str, other: str | None) -> bool:
    return other is not None and one.rstrip("/") == other.rstrip("/")


def _read(path: Path) -> dict[str, str]:
    import tomllib

    try:
        with path.open("rb") as file:
            content = tomllib.load(file)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}", code="bad_file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"{path}: {error}", code="bad_file", hint='it holds url, token and ca, each as KEY = "VALUE"'
        ) from error
    for key, value in content.items():
        if key in ("url", "token", "ca") and not isinstance(value, str):
            raise ConfigurationError(f"{path}: {key} must be a text in quotes", code="bad_file")
    return content
