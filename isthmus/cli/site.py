"""``isthmus site``."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from isthmus import schema
from isthmus.cli._options import Json, Name, NewName, noun, pairs, read_text, values
from isthmus.cli._output import put, put_json
from isthmus.cli._progress import Progress
from isthmus.cli._session import Session, client_of
from isthmus.cli._verbs import add_list, add_show

app = noun("site")

_COLUMNS: dict[str, Any] = {
    "NAME": lambda site: site.name,
    "KIND": lambda site: site.kind,
    "STATE": lambda site: site.state,
    "HOSTS": lambda site: site.hosts,
    "REASON": lambda site: site.status_reason,
}
_NAMED_HOST = re.compile(r"^([a-z0-9][a-z0-9.-]*)=(.+)$")


@app.command()
def add(
    ctx: typer.Context,
    kind: Annotated[str, typer.Argument(metavar="KIND", help="kvm, ec2, simulated, or a plug-in's.")],
    name: NewName,
    host: Annotated[
        list[str] | None,
        typer.Option("--host", metavar="[NAME=]URI", help="kvm: a libvirt URI; again for more."),
    ] = None,
    endpoint: Annotated[
        str | None,
        typer.Option("--endpoint", metavar="URL", help="ec2: the address of the API; AWS's own without."),
    ] = None,
    region: Annotated[str | None, typer.Option("--region", help="ec2: the region.")] = None,
    endpoint_ca: Annotated[
        str | None,
        typer.Option("--endpoint-ca", metavar="FILE", help="ec2: the CA of the endpoint's certificate."),
    ] = None,
    access_key_id: Annotated[
        str | None, typer.Option("--access-key-id", help="ec2: default AWS_ACCESS_KEY_ID, or asked for.")
    ] = None,
    secret_access_key_file: Annotated[
        str | None,
        typer.Option(
            "--secret-access-key-file",
            metavar="FILE",
            help="ec2: default AWS_SECRET_ACCESS_KEY, or asked for; - for standard input.",
        ),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--option", metavar="KEY=VALUE", help="An option of the kind; JSON values are read as such."
        ),
    ] = None,
    credential: Annotated[
        list[str] | None,
        typer.Option(
            "--credential", metavar="KEY=SOURCE", help="A secret, from @FILE, env:VARIABLE, or - (asked for)."
        ),
    ] = None,
    attribute: Annotated[
        list[str] | None, typer.Option("--attribute", metavar="KEY=VALUE", help="Added to each of its hosts.")
    ] = None,
    host_attribute: Annotated[
        list[str] | None,
        typer.Option("--host-attribute", metavar="HOST:KEY=VALUE", help="Added to one host."),
    ] = None,
    json: Json = False,
) -> None:
    """Add a site. Secrets never stand on the command line, where `ps` shows them."""
    session = ctx.find_object(Session)
    environ: Mapping[str, str] = session.environ if session else {}
    options: dict[str, Any] = {}
    if host:
        options["hosts"] = [_host(one) for one in host]
    if endpoint:
        options["endpoint"] = endpoint
    if region:
        options["region"] = region
    if endpoint_ca:
        options["ca_pem"] = read_text(endpoint_ca, "--endpoint-ca")
    options |= values(option or [], "--option")
    credentials = _credentials(credential or [], environ)
    if kind == "ec2":
        credentials = _ec2_credentials(access_key_id, secret_access_key_file, environ) | credentials
    with Progress(f"adding {name}"):
        site = client_of(ctx).sites.create(
            name,
            kind,
            options=options or None,
            attributes=values(attribute, "--attribute") if attribute else None,
            host_attributes=_host_attributes(host_attribute) if host_attribute else None,
            credentials=credentials or None,
        )
    if json:
        put_json(site)
    else:
        put(_standing(site))


add_list(app, "sites", _COLUMNS, "List sites.", "no sites; `isthmus site add` adds one")


def _record(site: Any) -> dict[str, Any]:
    return {
        "name": site.name,
        "id": site.id,
        "kind": site.kind,
        "state": site.state,
        "reason": site.status_reason,
        "hosts": site.hosts,
        "options": [f"{key} = {value}" for key, value in site.options.items()],
        "attributes": site.attributes,
        "labels": site.labels,
        "created": site.created_at,
    }


add_show(app, "sites", _record, "Show one site.")


@app.command()
def refresh(ctx: typer.Context, name: Name, json: Json = False) -> None:
    """Have the broker look at a site now."""
    with Progress(f"looking at {name}"):
        site = client_of(ctx).sites.look(name)
    if json:
        put_json(site)
    else:
        put(_standing(site))


@app.command()
def remove(ctx: typer.Context, name: Name) -> None:
    """Remove a site from the broker. Refused while VMs of ours are on it."""
    with Progress(f"removing {name}"):
        client_of(ctx).sites.delete(name)
    put(f"{name} is removed")


def _standing(site: schema.Site) -> str:
    hosts = "1 host" if site.hosts == 1 else f"{site.hosts} hosts"
    return f"{site.name} is {site.state}, {hosts}" + (f": {site.status_reason}" if site.status_reason else "")


def _host(text: str) -> str | dict[str, str]:
    named = _NAMED_HOST.match(text)
    return {"name": named[1], "uri": named[2]} if named else text


def _host_attributes(texts: Sequence[str]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for text in texts:
        host, colon, rest = text.partition(":")
        if not host or not colon:
            raise typer.BadParameter(f"{text!r} is not HOST:KEY=VALUE", param_hint="--host-attribute")
        found.setdefault(host, {}).update(values([rest], "--host-attribute"))
    return found


def _credentials(texts: Sequence[str], environ: Mapping[str, str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for key, source in pairs(texts, "--credential").items():
        if source.startswith("@"):
            found[key] = read_text(source[1:], "--credential").rstrip("\n")
        elif source.startswith("env:"):
            if source[4:] not in environ:
                raise typer.BadParameter(f"the environment has no {source[4:]}", param_hint="--credential")
            found[key] = environ[source[4:]]
        elif source == "-":
            found[key] = _ask(key, "--credential")
        else:
            raise typer.BadParameter(
                f"{key} must come from @FILE, env:VARIABLE or -: the command line is no place for a secret",
                param_hint="--credential",
            )
    return found


def _ec2_credentials(
    key_id: str | None, secret_file: str | None, environ: Mapping[str, str]
) -> dict[str, str]:
    key_id = key_id or environ.get("AWS_ACCESS_KEY_ID")
    if secret_file:
        secret = read_text(secret_file, "--secret-access-key-file").strip()
    else:
        secret = environ.get("AWS_SECRET_ACCESS_KEY", "")
    if not key_id and not secret and not sys.stdin.isatty():
        return {}  # perhaps given by --credential; the broker says what is missing
    found = {
        "access_key_id": key_id or _ask("access key id", "--access-key-id", hide=False),
        "secret_access_key": secret or _ask("secret access key", "--secret-access-key-file"),
    }
    if not secret_file and environ.get("AWS_SESSION_TOKEN"):
        found["session_token"] = environ["AWS_SESSION_TOKEN"]
    return found


def _ask(what: str, option: str, hide: bool = True) -> str:
    if not sys.stdin.isatty():
        raise typer.BadParameter(f"{what} is needed, and there is no terminal to ask on", param_hint=option)
    answer: str = typer.prompt(what, hide_input=hide, err=True)
    return answer
