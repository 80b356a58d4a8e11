"""``/v1/projects``."""

from __future__ import annotations

from fastapi import APIRouter

from api.native.auth import Caller, TheBroker
from api.native.label import Label, wanted
from api.native.paging import Limit, Ref, Token, cut
from broker import project
from broker.store import ProjectRow
from isthmus import schema

router = APIRouter(prefix="/v1/projects", tags=["project"])


@router.post("", status_code=201)
def create_project(broker: TheBroker, caller: Caller, body: schema.ProjectCreate) -> schema.Project:
    """Add a project. Admins only."""
    return _answer(
        project.create(
            broker,
            caller,
            name=body.name,
            quota=body.quota.model_dump(),
            labels=body.labels,
        )
    )


@router.get("")
def list_projects(
    broker: TheBroker,
    caller: Caller,
    label: Label = [],  # noqa: B006
    limit: Limit = 100,
    page: Token = None,
) -> schema.Page[schema.Project]:
    """All projects for admins, their own for others; by name."""
    rows, following = cut(
        project.list_projects(broker, caller, labels=wanted(label)), lambda row: (row.name,), limit, page
    )
    return schema.Page(items=[_answer(row) for row in rows], next=following)


@router.get("/{ref}")
def get_project(broker: TheBroker, caller: Caller, ref: Ref) -> schema.Project:
    """One project."""
    return _answer(project.get(broker, caller, ref))


@router.delete("/{ref}", status_code=204)
def delete_project(broker: TheBroker, caller: Caller, ref: Ref) -> None:
    """Remove a project that never had a VM. Admins only."""
    project.delete(broker, caller, ref)


def _answer(row: ProjectRow) -> schema.Project:
    return schema.Project(
        id=row.id,
        name=row.name,
        quota=schema.Quota(**row.quota),
        used=schema.QuotaUsed(**row.used.as_dict()),
        account=row.account,
        labels=row.labels,
        created_at=row.created_at,
    )
