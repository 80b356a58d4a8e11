"""``isthmus flavor``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from isthmus.cli._options import Json, NewName, noun
from isthmus.cli._output import put, put_json
from isthmus.cli._session import client_of
from isthmus.cli._verbs import add_delete, add_list, add_show

app = noun("flavor")

_COLUMNS: dict[str, Any] = {
    "NAME": lambda flavor: flavor.name,
    "VCPUS": lambda flavor: flavor.vcpus,
    "MEM MB": lambda flavor: flavor.mem_mb,
    "DISK GB": lambda flavor: flavor.disk_gb,
    "HARDWARE": lambda flavor: _hardware(flavor),
}


def _hardware(size: Any) -> str:
    """What of its host a VM of that size has for itself."""
    parts = [f"{size.gpus} GPU{'s' * (size.gpus > 1)}"] if size.gpus else []
    parts += ["dedicated CPUs"] if size.dedicated_cpus else []
    return ", ".join([*parts, "huge pages"] if size.hugepages else parts)


@app.command()
def create(
    ctx: typer.Context,
    name: NewName,
    vcpus: Annotated[int, typer.Option("--vcpus", help="Virtual CPUs.")],
    mem_mb: Annotated[int, typer.Option("--mem-mb", help="Memory in MiB.")],
    disk_gb: Annotated[int, typer.Option("--disk-gb", help="Disk in GiB.")],
    gpus: Annotated[int, typer.Option("--gpus", help="GPUs of the host, for the VM alone.", min=0)] = 0,
    dedicated_cpus: Annotated[
        bool,
        typer.Option(
            "--dedicated-cpus",
            help="Each vCPU on a CPU of the host that no other VM runs on, on one NUMA node.",
        ),
    ] = False,
    hugepages: Annotated[
        bool, typer.Option("--hugepages", help="The memory in huge pages of the host.")
    ] = False,
    json: Json = False,
) -> None:
    """Add a flavor."""
    flavor = client_of(ctx).flavors.create(
        name,
        vcpus=vcpus,
        mem_mb=mem_mb,
        disk_gb=disk_gb,
        gpus=gpus,
        dedicated_cpus=dedicated_cpus,
        hugepages=hugepages,
    )
    if json:
        put_json(flavor)
    else:
        put(f"{flavor.name} is added")


add_list(app, "flavors", _COLUMNS, "List flavors.", "no flavors; `isthmus flavor create` adds one")


def _record(flavor: Any) -> dict[str, Any]:
    return {
        "name": flavor.name,
        "id": flavor.id,
        "vcpus": flavor.vcpus,
        "memory MiB": flavor.mem_mb,
        "disk GiB": flavor.disk_gb,
        "hardware": _hardware(flavor),
        "labels": flavor.labels,
    }


add_show(app, "flavors", _record, "Show one flavor.")


add_delete(app, "flavors", "Remove a flavor. VMs that were made with it keep their size.")
