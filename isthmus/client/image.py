"""Disk images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Self

from isthmus import schema
from isthmus.client._resource import Resource, Resources, ask

COPY_S = 1800.0
"""How long a broker may take to copy an image, on top of the client's timeout."""


class Image(Resource, schema.Image):
    """A disk image that VMs are cloned from."""

    def map(self, sites: Mapping[str, str]) -> Self:
        """Say which id it has at which cloud site; replaces the whole map."""
        return self._take(self._client.images.map(self.id, sites))

    def deprecate(self, on: bool = True) -> Self:
        """Have the family's bare name not mean this version any more (``on``), or mean it again. It can be used as before."""
        return self._take(self._client.images.deprecate(self.id, on))


class Images(Resources[Image]):
    """``client.images``. ``ref`` is an image's id, ``family@version``, or the family: its newest version that is not deprecated.
    Deleting one is refused while VMs use it."""

    _path = "/v1/images"
    _model = Image

    def create(
        self,
        name: str,
        path: str,
        *,
        format: str | None = None,
        architecture: str | None = None,
        kernel: str | None = None,
        initrd: str | None = None,
        cmdline: str | None = None,
        min_disk_gb: int | None = None,
        login_user: str | None = None,
        project: str | None = None,
        visibility: Literal["private", "shared"] | None = None,
        sites: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Image:
        """Import a disk file that lies on the broker's machine, as the next version of the family ``name``.

        ``format``: ``qcow2`` (the default) or ``raw``. With ``kernel`` and ``initrd`` (files there, too) the VM
        boots them directly. ``sites`` maps cloud sites to the image's id there (an AMI). ``min_disk_gb`` (GiB): the least
        disk of its VMs, by default the image's own. ``login_user`` is for people to read. With ``project`` it is that
        project's, and ``private`` unless ``visibility`` says ``shared``. Raises Conflict when the newest version is the same.
        """
        body = ask(
            schema.ImageCreate,
            name=name,
            path=path,
            format=format,
            architecture=architecture,
            kernel=kernel,
            initrd=initrd,
            cmdline=cmdline,
            min_disk_gb=min_disk_gb,
            login_user=login_user,
            project=project,
            visibility=visibility,
            sites=sites,
            labels=labels,
        )
        return self._http.post(Image, self._path, body, repeat=False, wait=COPY_S)

    def map(self, ref: str, sites: Mapping[str, str]) -> Image:
        """Say which id an image has at which cloud site; replaces the whole map."""
        return self._http.patch(Image, self._url(ref), ask(schema.ImageUpdate, sites=sites))

    def deprecate(self, ref: str, on: bool = True) -> Image:
        """Have a family's bare name not mean this version any more (``on``), or mean it again."""
        return self._http.patch(Image, self._url(ref), ask(schema.ImageUpdate, deprecated=on))
