"""Projects: whose VMs they are."""

from __future__ import annotations

from collections.abc import Mapping

from isthmus import schema
from isthmus.client._resource import Resource, Resources, ask


class Project(Resource, schema.Project):
    """A project with its quota."""


class Projects(Resources[Project]):
    """``client.projects``. ``ref`` is a project's id or name. Deleting one is refused while it has VMs."""

    _path = "/v1/projects"
    _model = Project

    def create(
        self,
        name: str,
        *,
        vms: int | None = None,
        vcpus: int | None = None,
        mem_mb: int | None = None,
        disk_gb: int | None = None,
        gpus: int | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Project:
        """Add a project that may have so many VMs, vCPUs, MiB of memory, GiB of disk and GPUs at once; None is no limit."""
        quota = ask(schema.QuotaSet, vms=vms, vcpus=vcpus, mem_mb=mem_mb, disk_gb=disk_gb, gpus=gpus)
        body = ask(schema.ProjectCreate, name=name, quota=quota, labels=labels)
        return self._http.post(Project, self._path, body)
