"""Flavors: sizes of VMs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from isthmus import schema
from isthmus.client._resource import Collection, Resource, ask, label_texts


class Flavor(Resource, schema.Flavor):
    """A size of VMs."""


class Flavors(Collection[Flavor]):
    """``client.flavors``."""

    _path = "/v1/flavors"
    _model = Flavor

    def create(
        self,
        name: str,
        *,
        vcpus: int,
        mem_mb: int,
        disk_gb: int,
        gpus: int = 0,
        dedicated_cpus: bool = False,
        hugepages: bool = False,
        labels: Mapping[str, str] | None = None,
    ) -> Flavor:
        """Add a size: memory in MiB, disk in GiB. ``dedicated_cpus``: each vCPU on a CPU of its host that no other VM
        runs on, all on one NUMA node. ``hugepages``: the memory is in huge pages of the host."""
        body = ask(
            schema.FlavorCreate,
            name=name,
            vcpus=vcpus,
            mem_mb=mem_mb,
            disk_gb=disk_gb,
            gpus=gpus,
            dedicated_cpus=dedicated_cpus,
            hugepages=hugepages,
            labels=labels,
        )
        return self._http.post(Flavor, self._path, body)

    def get(self, name: str) -> Flavor:
        """One flavor."""
        return self._get(name)

    def list(self, *, labels: Mapping[str, str] | None = None) -> Iterator[Flavor]:
        """All flavors; with ``labels``, those that carry all of them."""
        return self._list({"label": label_texts(labels)})

    def delete(self, name: str) -> None:
        """Remove a flavor. VMs that were made with it keep their size."""
        self._http.delete(self._url(name))
