"""Disk images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from isthmus import schema
from isthmus.client._resource import Resource, Resources, ask

COPY_S = 1800.0
"""How long a broker may take to copy an image, on top of the client's timeout."""


class Image(Resource, schema.Image):
    """A disk image that VMs are cloned from."""

    def map(self, sites: Mapping[str, str]) -> Self:
        """Say which id it has at which cloud site; replaces the whole map."""
        return self._take(self._client.images.map(self.id, sites))


class Images(Resources[Image]):
    """``client.images``. ``ref`` is an image's id or name. Deleting one is refused while VMs use it."""

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
        sites: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Image:
        """Import a disk file that lies on the broker's machine.

        ``format``: ``qcow2`` (the default) or ``raw``. With ``kernel`` and ``initrd`` (files there, too) the VM
        boots them directly. ``sites`` maps cloud sites to the image's id there (an AMI).
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
            sites=sites,
            labels=labels,
        )
        return self._http.post(Image, self._path, body, repeat=False, wait=COPY_S)

    def map(self, ref: str, sites: Mapping[str, str]) -> Image:
        """Say which id an image has at which cloud site; replaces the whole map."""
        return self._http.patch(Image, self._url(ref), ask(schema.ImageUpdate, sites=sites))
