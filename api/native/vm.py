"""``/v1/vms``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Header, Query
from pydantic import TypeAdapter
from starlette.responses import Response

from api.native import operation
from api.native.auth import Caller, TheBroker
from api.native.dry_run import BEGINS, DryRun, told
from api.native.label import Label, wanted
from api.native.paging import Limit, Ref, Text, Token, opened, sealed
from broker import launch, migration, power, vm, why
from broker.broker import Broker
from broker.errors import InvalidRequest, NotFound
from broker.forecast import forecast
from broker.store import OperationRow, VMRow
from isthmus import schema

router = APIRouter(prefix="/v1/vms", tags=["vm"])

_VMS = TypeAdapter(list[schema.VM])

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        pattern=r"^[\x21-\x7e]{1,255}$",
        description="Two requests with the same key are one: the second gets the answer of the first.",
    ),
]


@router.post("", **BEGINS)
def create_vm(
    broker: TheBroker,
    caller: Caller,
    body: schema.VMCreate,
    idempotency_key: IdempotencyKey = None,
    dry_run: DryRun = False,
) -> schema.VMOperation | Response:
    """Ask for a VM. It is `pending` until a host is found; the operation says where it stands."""
    begin = partial(
        launch.create,
        broker,
        caller,
        name=body.name,
        image_ref=body.image,
        flavor_ref=body.flavor,
        networks=body.networks,
        address=body.address,
        key_pair=body.key_pair,
        user_data=body.user_data,
        labels=body.labels,
        requirements=body.requirements,
        rank=body.rank,
        wishes=launch.Wishes(
            priority=body.priority,
            runtime_s=body.runtime_s,
            deadline=body.deadline,
            affinity=[rule.model_dump() for rule in body.affinity],
            preemptible=body.preemptible,
            immediate=body.immediate,
            reservation=body.reservation,
            site=body.site,
        ),
        token=idempotency_key,
    )
    return _begun(broker, begin, dry_run)


@router.get("", response_model=schema.Page[schema.VM])
def list_vms(
    broker: TheBroker,
    caller: Caller,
    name: Text = None,
    state: schema.VMState | None = None,
    site: Text = None,
    label: Label = [],  # noqa: B006
    all: Annotated[bool, Query(description="Terminated ones too.")] = False,
    limit: Limit = 100,
    page: Token = None,
) -> Response:
    """The project's VMs, oldest first."""
    try:
        found = vm.page(
            broker,
            caller,
            name=name,
            state=state,
            site_ref=site,
            labels=wanted(label),
            include_terminated=all or state is schema.VMState.TERMINATED,
            after=str(opened(page)[0]) if page else None,
            limit=limit + 1,
        )
    except NotFound as error:
        if error.noun == "vm":
            raise InvalidRequest(
                "this page token is none of this list", hint="start without `page`"
            ) from None
        raise
    vms = _VMS.validate_json(found)
    following = sealed((vms[limit - 1].id,)) if len(vms) > limit else None
    # Written here and not by the framework, which would take the event loop's time for it.
    return Response(
        schema.Page[schema.VM](items=vms[:limit], next=following).model_dump_json(),
        media_type="application/json",
    )


@router.get("/{ref}")
def get_vm(broker: TheBroker, caller: Caller, ref: Ref) -> schema.VM:
    """One VM."""
    return answer(vm.get(broker, caller, ref))


@router.patch("/{ref}")
def update_vm(broker: TheBroker, caller: Caller, ref: Ref, body: schema.VMUpdate) -> schema.VM:
    """Replace a VM's labels."""
    return answer(vm.set_labels(broker, caller, ref, body.labels))


@router.delete("/{ref}", **BEGINS)
def delete_vm(
    broker: TheBroker, caller: Caller, ref: Ref, dry_run: DryRun = False
) -> schema.VMOperation | Response:
    """Terminate a VM in whatever state it is. Deleting again changes nothing."""
    return _begun(broker, partial(vm.delete, broker, caller, ref), dry_run)


@router.post("/{ref}/start", **BEGINS)
def start_vm(
    broker: TheBroker, caller: Caller, ref: Ref, dry_run: DryRun = False
) -> schema.VMOperation | Response:
    """Start a stopped VM."""
    return _begun(broker, partial(power.start, broker, caller, ref), dry_run)


@router.post("/{ref}/stop", **BEGINS)
def stop_vm(
    broker: TheBroker,
    caller: Caller,
    ref: Ref,
    body: schema.VMStop | None = None,
    dry_run: DryRun = False,
) -> schema.VMOperation | Response:
    """Ask a VM's guest to shut down, or pull the plug."""
    force = body is not None and body.force
    return _begun(broker, partial(power.stop, broker, caller, ref, force=force), dry_run)


@router.post("/{ref}/reboot", **BEGINS)
def reboot_vm(
    broker: TheBroker, caller: Caller, ref: Ref, dry_run: DryRun = False
) -> schema.VMOperation | Response:
    """Reboot a running VM."""
    return _begun(broker, partial(power.reboot, broker, caller, ref), dry_run)


@router.post("/{ref}/suspend", **BEGINS)
def suspend_vm(
    broker: TheBroker, caller: Caller, ref: Ref, dry_run: DryRun = False
) -> schema.VMOperation | Response:
    """Save a running VM's memory on its host's disk and give its cores and memory back."""
    return _begun(broker, partial(power.suspend, broker, caller, ref), dry_run)


@router.post("/{ref}/resume", **BEGINS)
def resume_vm(
    broker: TheBroker, caller: Caller, ref: Ref, dry_run: DryRun = False
) -> schema.VMOperation | Response:
    """Let a suspended VM go on where it was, as soon as its host has room."""
    return _begun(broker, partial(power.resume, broker, caller, ref), dry_run)


@router.post("/{ref}/migrate", **BEGINS)
def migrate_vm(
    broker: TheBroker,
    caller: Caller,
    ref: Ref,
    body: schema.VMMigrate | None = None,
    dry_run: DryRun = False,
) -> schema.VMOperation | Response:
    """Move a running VM to another host of its site. Admins only."""
    host = body.host if body is not None else None
    return _begun(broker, partial(migration.migrate, broker, caller, ref, host_ref=host), dry_run)


@router.get("/{ref}/why")
def explain_vm(broker: TheBroker, caller: Caller, ref: Ref) -> schema.Why:
    """Why a VM is where it is, or why it is nowhere."""
    view = why.why(broker, caller, ref)
    return schema.Why(
        vm=view.vm.name,
        placed=view.vm.host is not None,
        summary=view.summary,
        host=view.host,
        rank=view.rank,
        runner_up=view.runner_up,
        runner_up_rank=view.runner_up_rank,
        gap=view.gap,
        sites=[
            schema.SiteWhy(
                site=site.site,
                hosts=site.hosts,
                feasible=site.feasible,
                terms=[
                    schema.Term(text=t.text, refused=t.refused, undefined=t.undefined) for t in site.terms
                ],
                nearest=schema.NearestMiss(host=site.nearest.name, lacks=list(site.nearest.lacks))
                if site.nearest
                else None,
                verdict=site.verdict,
            )
            for site in view.explanation.sites
        ],
        policy=list(view.policy),
        admit=view.explanation.admit,
    )


@router.get("/{ref}/console")
def read_console(broker: TheBroker, caller: Caller, ref: Ref) -> schema.Console:
    """The newest part of a VM's serial console."""
    return schema.Console(text=vm.console(broker, caller, ref))


def answer(row: VMRow) -> schema.VM:
    """A VM on the wire."""
    return schema.VM(
        id=row.id,
        name=row.name,
        project=row.project.name,
        state=schema.VMState(row.state),
        status_reason=row.status_reason,
        image=row.image.name,
        flavor=row.flavor,
        **row.size.as_dict(),
        site=row.site.name if row.site else None,
        host=row.host.name if row.host else None,
        elastic=row.elastic,
        nics=[
            schema.NIC(
                id=nic.id,
                network=nic.network_name,
                subnet=nic.subnet_id,
                address=nic.address,
                addresses=[each.address for each in nic.addresses],
                mac=nic.mac,
            )
            for nic in row.nics
        ],
        public_address=row.public_address,
        key_pair=row.key_pair,
        labels=row.labels,
        requirements=row.requirements,
        rank=row.rank,
        priority=row.priority,
        runtime_s=row.runtime_s,
        deadline=row.deadline,
        affinity=[schema.AffinityRule(**rule) for rule in row.affinity],
        preemptible=row.preemptible,
        immediate=row.immediate,
        interruptions=row.interruptions,
        site_wanted=row.site_wanted.name if row.site_wanted else None,
        reservation=row.reservation_id,
        provider_ref=row.provider_ref,
        operation=row.operation_id,
        created_at=row.created_at,
        launched_at=row.launched_at,
        enrolled_at=row.enrolled_at,
        terminated_at=row.terminated_at,
    )


def _begun(
    broker: Broker, begin: Callable[[], tuple[VMRow, OperationRow]], dry_run: bool
) -> schema.VMOperation | Response:
    """Begin an operation on a VM, or say what that would do."""
    if not dry_run:
        row, task = begin()
        return schema.VMOperation(vm=answer(row), operation=operation.answer(task))
    found = forecast(broker, begin)
    vm = answer(found.vm)
    if found.begins:
        vm.operation = None
    if found.creates:
        vm.id = ""
        for nic in vm.nics:
            nic.id = nic.mac = ""
    place = found.place
    return told(
        schema.DryRun(
            action=found.task.kind,
            vm=vm,
            operation=None if found.begins else found.task.id,
            placement=schema.Placement(
                site=place.site,
                host=place.host,
                elastic=place.elastic,
                rank=place.rank,
                price_hour=place.price_hour,
            )
            if place is not None
            else None,
            reason=found.reason,
            message=found.message,
        )
    )
