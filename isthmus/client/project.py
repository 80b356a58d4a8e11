"""Projects: whose VMs they are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

from isthmus import schema
from isthmus.client._resource import Bound, Collection, ask


class Project(Bound, schema.Project):
    """A project with its quota."""

    def refresh(self) -> Self:
        """Read it again."""
        return self._take(self._client.projects.get(self.id))

    def delete(self) -> None:
        """Remove it. Refused while it has VMs."""
        self._client.projects.delete(self.id)


class Projects(Collection[Project]):
    """``client.projects``. ``ref`` is a project's id or name."""

    _path = "/v1/projects"
    _model = Project

    def create(
        self, name: str, *, vms: int | None = None, vcpus: int | None = None, mem_mb: int | None = None
    ) -> Project:
        """Add a project that may have so many VMs, vCPUs and MiB of memory at once; None is no limit."""
        quota = {"vms": vms, "vcpus": vcpus, "mem_mb": mem_mb}
        return self._http.post(Project, self._path, ask(schema.ProjectCreate, name=name, quota=quota))

    def get(self, ref: str) -> Project:
        """One project."""
        return self._get(ref)

    def list(self) -> Iterator[Project]:
        """All projects that the caller may see."""
        return self._list()

    def delete(self, ref: str) -> None:
        """Remove a project. Refused while it has VMs."""
        self._http.delete(self._url(ref))
