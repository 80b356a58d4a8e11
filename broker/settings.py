"""Settings of a broker: the config file, over which the environment wins (``ISTHMUS_SECTION__NAME``)."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict


class SettingsError(Exception):
    """A config file that cannot be used: which file, which setting, what is wrong."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Listen(_Section):
    """Where the faces listen. An address that is not loopback needs ``tls``."""

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    native_port: int = Field(default=8770, ge=0, le=65535, description="Port of the native API.")
    ec2_port: int = Field(default=8773, ge=0, le=65535, description="Port of the EC2 Query face.")
    tls_cert: str = Field(default="", description="PEM certificate chain; with `tls_key` turns TLS on.")
    tls_key: str = Field(default="", description="PEM private key of the certificate.")


class Database(_Section):
    """Where rows live."""

    url: str = Field(default="", description="SQLAlchemy URL; empty is SQLite in the data directory.")


class Ec2(_Section):
    """The EC2 Query face."""

    region: str = Field(default="isthmus-1", description="The region's name in the EC2 face.")


class Timing(_Section):
    """Intervals and deadlines, in seconds."""

    reconcile_s: float = Field(
        default=15, gt=0, description="How often every site is compared with what it should be."
    )
    policy_s: float = Field(default=2, gt=0, description="How often the burst policy is evaluated.")
    sweep_s: float = Field(
        default=1,
        gt=0,
        description="How often operations are looked for that are due and that nobody drives.",
    )
    provider_call_s: float = Field(default=30, gt=0, description="Deadline of one call to a host or cloud.")
    stop_grace_s: float = Field(
        default=60, gt=0, description="How long a guest may take to shut down before it is forced."
    )
    suspend_s: float = Field(
        default=60,
        gt=0,
        description="How long before a reservation begins its room is made free, by suspending VMs.",
    )
    boot_s: float = Field(default=600, gt=0, description="How long a VM may take from launch to running.")
    enrol_s: float = Field(default=900, gt=0, description="How long a bootstrap key is good for.")
    gateway_s: float = Field(
        default=30, gt=0, description="How long a removal waits for a gateway that does not answer."
    )
    quarantine_s: float = Field(
        default=180, ge=0, description="How long a returned address rests before it is leased again."
    )


class Retention(_Section):
    """How long what is over is kept, in days; 0 keeps it for ever."""

    events_days: int = Field(default=90, ge=0, description="Events.")
    operations_days: int = Field(default=30, ge=0, description="Operations that are over.")
    vms_days: int = Field(default=30, ge=0, description="Terminated VMs, with their ends of tunnels.")
    peers_days: int = Field(
        default=30, ge=0, description="Ends of tunnels of living VMs that expired or were removed."
    )
    reservations_days: int = Field(default=90, ge=0, description="Reservations that have ended.")
    keys_days: int = Field(default=7, ge=0, description="Idempotency keys and EC2's client tokens.")
    usage_days: int = Field(
        default=100,
        ge=0,
        description="Each single stay in the usage records; before that, their sums by month.",
    )
    shown_s: float = Field(
        default=3600,
        ge=0,
        description="Seconds that the EC2 API shows a terminated instance; at most as long as it is kept.",
    )


class Log(_Section):
    """What is logged."""

    level: str = Field(
        default="info", pattern="^(debug|info|warning|error)$", description="Least level that is logged."
    )
    format: str = Field(
        default="auto", pattern="^(auto|json|text)$", description="`auto` is text on a terminal, else JSON."
    )


class Settings(BaseSettings):
    """All settings of one broker. ``data_dir`` holds the database, the key file and the images."""

    model_config = SettingsConfigDict(extra="forbid", env_prefix="ISTHMUS_", env_nested_delimiter="__")

    data_dir: Path = Field(description="Directory of the database, the key file and the images.")
    policy_file: str = Field(default="", description="A policy file to watch and apply when it changes.")
    listen: Listen = Field(default_factory=Listen)
    database: Database = Field(default_factory=Database)
    ec2: Ec2 = Field(default_factory=Ec2)
    timing: Timing = Field(default_factory=Timing)
    retention: Retention = Field(default_factory=Retention)
    log: Log = Field(default_factory=Log)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment wins over the file."""
        return env_settings, init_settings

    @property
    def database_url(self) -> str:
        """The SQLAlchemy URL in force."""
        return self.database.url or f"sqlite:///{self.data_dir / 'isthmus.sqlite3'}"

    @property
    def key_file(self) -> Path:
        """The key that seals secrets."""
        return self.data_dir / "key"


def load(path: Path) -> Settings:
    """Settings of a config file. Raises SettingsError: file, line, column, what is wrong, and the mend."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        raise SettingsError(
            f"{path} does not exist: run `isthmus init` first, or name it with --config"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} cannot be read: {error}") from None
    try:
        values: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(_toml_mistake(path, text, str(error))) from None
    values.setdefault("data_dir", str(path.parent))
    try:
        return Settings(**values)
    except ValidationError as error:
        raise SettingsError("\n".join(_mistake(path, text, one) for one in error.errors())) from None


def _toml_mistake(path: Path, text: str, message: str) -> str:
    found = re.search(r"\(at line (\d+), column (\d+)\)$", message)
    if found is None:  # "at end of document"
        line = text.count("\n") + 1
        return f'{path}:{line}:1: {message}; texts are in quotes, as in host = "127.0.0.1"'
    words = message[: found.start()].strip()
    return f'{path}:{found[1]}:{found[2]}: {words}; texts are in quotes, as in host = "127.0.0.1"'


def _mistake(path: Path, text: str, error: ErrorDetails) -> str:
    names = [str(part) for part in error["loc"]]
    line, column = _place(text, names)
    where = f"{path}:{line}:{column}: " if line else f"{path}, or the environment: "
    name = ".".join(names)
    if error["type"] != "extra_forbidden":
        return f"{where}{name}: {error['msg']}"
    section: type[BaseModel] = Settings
    for part in names[:-1]:
        inner = section.model_fields[part].annotation
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return f"{where}{name}: {error['msg']}"
        section = inner
    near = difflib.get_close_matches(names[-1], section.model_fields, n=1)
    mend = f"did you mean {near[0]}?" if near else f"there are: {', '.join(section.model_fields)}"
    return f"{where}there is no setting {name}; {mend}"


def _place(text: str, names: Sequence[str]) -> tuple[int, int]:
    """Line and column of a setting in the file, from 1; (0, 0) when it is not there (it came from the environment)."""
    section: list[str] = []
    for number, line in enumerate(text.split("\n"), 1):
        header = re.match(r"^\s*\[([^\[\]]+)\]", line)
        if header:
            section = [part.strip() for part in header[1].split(".")]
            if section == list(names):
                return number, line.index("[") + 1
            continue
        key = re.match(r"^(\s*)([A-Za-z0-9_.-]+)\s*=", line)
        if key and [*section, *key[2].split(".")] == list(names[: len(section) + 1 + key[2].count(".")]):
            return number, len(key[1]) + 1
    return 0, 0
