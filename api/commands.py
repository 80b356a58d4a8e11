"""``isthmus init`` and ``isthmus serve``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from api import certificate, server
from broker import flavor, project, token
from broker.actor import SYSTEM
from broker.broker import Broker
from broker.clock import SystemClock
from broker.sealing import Sealer, SealError
from broker.settings import Settings, SettingsError, load
from broker.size import Size
from broker.store import ProjectRow, Store, StoreError

_CONFIG = """\
# Configuration of an Isthmus broker. Every setting: docs/reference/settings.md.
# The environment wins over this file: ISTHMUS_LISTEN__NATIVE_PORT=9000 and so on.

# A policy file that is watched and applied when it changes. A bad file never replaces a good policy.
# policy_file = "{policy}"

[listen]
host = "{host}"
native_port = {native_port}
ec2_port = {ec2_port}
{tls}
[database]
# Empty is SQLite in this directory. Several brokers share a PostgreSQL database:
# url = "postgresql+psycopg://isthmus@db.example.org/isthmus"
url = ""

[ec2]
region = "{region}"

[log]
level = "info"
"""

_POLICY = """\
# An example of a burst policy. `isthmus policy check FILE` reads it, `isthmus policy apply FILE` puts it in force.
version: 1
placement:
  rank: 'elastic ? -1000 * price_hour : 100 + 10 * cpu_free / cpu_total'
burst:
  to: [aws]                                   # the cloud site, as named by `isthmus site add ec2`
  open: {any: ['queue.wait_p95 > 60', 'local.cpu_used > 0.90']}
  close: {all: ['local.cpu_used < 0.60'], for: 15m}
  never: 'vm.labels["data"] == "restricted"'
  dwell: 20m
  return: drain
  limits: {vms: 10, vcpus: 40}
"""

ONLY_MINE = 0o077
"""The umask: nobody else reads the database, the images or the config, also where the data directory is open."""

_LOCAL, _NATIVE_PORT, _EC2_PORT = "127.0.0.1", 8770, 8773
_FLAVORS = (("small", 1, 1024, 10), ("medium", 2, 4096, 20), ("large", 4, 8192, 40))


def default_data_dir() -> Path:
    """``/var/lib/isthmus`` for root, else ``~/.local/share/isthmus`` (XDG base directories)."""
    if os.geteuid() == 0:
        return Path("/var/lib/isthmus")
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "isthmus"


def default_config() -> Path:
    """``ISTHMUS_CONFIG``, else ``isthmus.toml`` in the data directory."""
    named = os.environ.get("ISTHMUS_CONFIG")
    return Path(named) if named else default_data_dir() / "isthmus.toml"


def init(
    data_dir: Annotated[
        Path | None,
        typer.Option(help="Where the broker keeps its database, key and images.", show_default=False),
    ] = None,
    listen: Annotated[str, typer.Option(help="Address the faces listen on.")] = _LOCAL,
    native_port: Annotated[int, typer.Option(help="Port of the native API.")] = _NATIVE_PORT,
    ec2_port: Annotated[int, typer.Option(help="Port of the EC2 Query face.")] = _EC2_PORT,
    region: Annotated[str, typer.Option(help="The region's name in the EC2 face.")] = "isthmus-1",
    tls_name: Annotated[
        list[str] | None,
        typer.Option(
            help="A name or address that clients dial: makes a CA and a certificate. May be repeated."
        ),
    ] = None,
    new_token: Annotated[
        bool, typer.Option(help="Make another admin token for a broker that exists.")
    ] = False,
    client: Annotated[
        bool, typer.Option(help="Write the client's file, so that `isthmus` works at once.")
    ] = True,
) -> None:
    """Make a broker's data directory: key file, database, config, an example policy, first admin and token.

    Run again it changes nothing that is there, and says what an existing config file lacks of what is asked for.
    """
    server.configure_logging("warning", "text")
    os.umask(ONLY_MINE)
    folder = (data_dir or default_data_dir()).absolute()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        fail(f"cannot make {folder}: {error.strerror}", "choose another with --data-dir")
    key, config, policy = folder / "key", folder / "isthmus.toml", folder / "policy.yaml"
    had_key, had_config = key.exists(), config.exists()
    Sealer.create_file(key)
    ca: Path | None = folder / "tls" / "ca.pem"
    if tls_name:
        ca, cert, cert_key = certificate.make(folder / "tls", tls_name, SystemClock().now())
        tls = f'tls_cert = "{cert}"\ntls_key = "{cert_key}"\n'
    else:
        ca = ca if ca is not None and ca.exists() else None
        tls = '# An address that others can reach needs TLS:\n# tls_cert = ""\n# tls_key = ""\n'
    if not had_config:
        config.write_text(
            _CONFIG.format(
                policy=policy, host=listen, native_port=native_port, ec2_port=ec2_port, tls=tls, region=region
            )
        )
    if not policy.exists():
        policy.write_text(_POLICY)
    try:
        settings: Settings = load(config)
        store = Store(settings.database_url)
        store.upgrade()
        broker = Broker(settings, store=store)
    except (SettingsError, StoreError, SealError) as error:
        fail(str(error), "mend it, then run `isthmus init` again")
    try:
        with store.reading() as session:
            first = session.query(ProjectRow).first() is None
        if first:
            owner: Any = project.create(broker, SYSTEM, name="default")
            for name, vcpus, mem_mb, disk_gb in _FLAVORS:
                flavor.create(
                    broker, SYSTEM, name=name, size=Size(vcpus=vcpus, mem_mb=mem_mb, disk_gb=disk_gb)
                )
        else:
            owner = project.get(broker, SYSTEM, "default") if new_token else None
        secret = None
        if owner is not None:
            secret = token.create(broker, SYSTEM, name="admin", project_ref=owner.id, role="admin")[1]
    finally:
        broker.close()
    scheme = "https" if settings.listen.tls_cert else "http"
    host = "127.0.0.1" if settings.listen.host in ("0.0.0.0", "::") else settings.listen.host  # noqa: S104
    url = f"{scheme}://{host}:{settings.listen.native_port}"
    typer.echo(f"data     {folder}{'' if had_key else '  (new)'}")
    typer.echo(f"config   {config}{'' if had_config else '  (new)'}")
    typer.echo(f"policy   {policy}  (an example, not in force)")
    if ca is not None:
        typer.echo(f"ca       {ca}  (give it to clients)")
    if secret is None:
        typer.echo("token    kept; `isthmus init --new-token` makes another one")
    else:
        if client:
            typer.echo(f"client   {_write_client(url, secret, ca)}  (0600)")
        typer.echo(f"token    {secret}  (shown once)")
    if lacks := _lacks(settings, listen, native_port, ec2_port, tls_name, folder):
        typer.echo(f"\n{config} is kept as it is. For what you ask, write under [listen] in it:")
        for line in lacks:
            typer.echo(f"  {line}")
        typer.echo("Then run `isthmus init --new-token`, which writes the client's file anew.")
    named = "" if config == default_config() else f" --config {config}"
    typer.echo(f"\nNext: isthmus serve{named}")


def _lacks(
    settings: Settings,
    listen: str,
    native_port: int,
    ec2_port: int,
    tls_names: Sequence[str] | None,
    folder: Path,
) -> list[str]:
    """The lines of [listen] that a config file from before would need. An option at its default asks for nothing."""
    there = settings.listen
    lines = []
    if listen not in (_LOCAL, there.host):
        lines.append(f'host = "{listen}"')
    if native_port not in (_NATIVE_PORT, there.native_port):
        lines.append(f"native_port = {native_port}")
    if ec2_port not in (_EC2_PORT, there.ec2_port):
        lines.append(f"ec2_port = {ec2_port}")
    if tls_names and not there.tls_cert:
        lines += [f'tls_cert = "{folder}/tls/server.pem"', f'tls_key = "{folder}/tls/server.key"']
    return lines


def serve(
    config: Annotated[Path | None, typer.Option(help="The config file.", show_default=False)] = None,
) -> None:
    """Run the broker: native API on 8770, EC2 Query on 8773. SIGTERM stops it gracefully."""
    os.umask(ONLY_MINE)
    try:
        server.serve(load(config or default_config()))
    except (SettingsError, StoreError, SealError, server.ListenError) as error:
        fail(str(error))


def _write_client(url: str, secret: str, ca: Path | None) -> Path:
    path = Path.home() / ".config" / "isthmus" / "client.toml"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    lines = [f'url = "{url}"', f'token = "{secret}"'] + ([f'ca = "{ca}"'] if ca is not None else [])
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.fchmod(handle, 0o600)  # a file that is there keeps its mode otherwise
    with os.fdopen(handle, "w") as file:
        file.write("\n".join(lines) + "\n")
    return path


def fail(message: str, hint: str = "") -> NoReturn:
    """End the command: what is wrong, and what to do."""
    typer.echo(f"error: {message}", err=True)
    if hint:
        typer.echo(f"hint: {hint}", err=True)
    raise typer.Exit(2)
