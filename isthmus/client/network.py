"""Private networks, with one subnet per site."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from isthmus import schema
from isthmus.client._resource import Resource, Resources, ask


class Network(Resource, schema.Network):
    """A private network."""

    def add_subnet(
        self,
        site: str,
        cidr: str,
        *,
        mode: str | None = None,
        gateway: str | None = None,
        bridge: str | None = None,
        dns: Sequence[str] | None = None,
        reserved: Sequence[str] | None = None,
        mtu: int | None = None,
    ) -> schema.Subnet:
        """Add the subnet of one site; see ``Networks.add_subnet``."""
        subnet = self._client.networks.add_subnet(
            self.id,
            site,
            cidr,
            mode=mode,
            gateway=gateway,
            bridge=bridge,
            dns=dns,
            reserved=reserved,
            mtu=mtu,
        )
        self.refresh()
        return subnet

    def remove_subnet(self, site: str) -> None:
        """Remove the subnet of one site. Refused while addresses of it are leased."""
        self._client.networks.remove_subnet(self.id, site)
        self.refresh()


class Networks(Resources[Network]):
    """``client.networks``. ``ref`` is a network's id or name; of one name the project's own comes first. Deleting one
    is refused while it is in use."""

    _path = "/v1/networks"
    _model = Network

    def create(
        self,
        name: str,
        cidr: str,
        *,
        project: str | None = None,
        visibility: Literal["private", "shared"] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Network:
        """Add a network. ``cidr`` covers all of its subnets; other networks may have the same.

        With ``project`` it is that project's, and ``private`` unless ``visibility`` says ``shared``.
        """
        body = ask(
            schema.NetworkCreate,
            name=name,
            cidr=cidr,
            project=project,
            visibility=visibility,
            labels=labels,
        )
        return self._http.post(Network, self._path, body)

    def add_subnet(
        self,
        ref: str,
        site: str,
        cidr: str,
        *,
        mode: str | None = None,
        gateway: str | None = None,
        bridge: str | None = None,
        dns: Sequence[str] | None = None,
        reserved: Sequence[str] | None = None,
        mtu: int | None = None,
    ) -> schema.Subnet:
        """Add the subnet of one site.

        ``mode``: ``nat`` (the default), ``route``, ``bridge`` (an existing one, named ``bridge``) on hosts of one's
        own; ``tunnel`` for burst VMs of a cloud. ``gateway`` defaults to the subnet's first address.
        ``reserved`` addresses (``10.0.0.2``, ``10.0.0.2-10.0.0.20``) are never leased.
        """
        body = ask(
            schema.SubnetCreate,
            site=site,
            cidr=cidr,
            mode=mode,
            gateway=gateway,
            bridge=bridge,
            dns=dns,
            reserved=reserved,
            mtu=mtu,
        )
        return self._http.post(schema.Subnet, self._url(ref, "subnets"), body)

    def remove_subnet(self, ref: str, site: str) -> None:
        """Remove the subnet of one site. Refused while addresses of it are leased."""
        self._http.delete(self._url(ref, "subnets", site))
