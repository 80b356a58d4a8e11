"""Images of the catalogue as the site knows them: AMIs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from providers.ec2.client import Client
from providers.ec2.flavor import CACHE_S
from providers.port import ImageSpec, NotFound, ProviderError


@dataclass(frozen=True)
class MachineImage:
    """What a launch needs to know of an AMI: its root disk's device name and size in GiB (0: not EBS)."""

    id: str
    root_device: str = ""
    root_gb: int = 0


class Images:
    """AMIs seen to be available, remembered for ten minutes."""

    def __init__(self, client: Client, clock: Callable[[], float]) -> None:
        self._client = client
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: dict[str, tuple[float, MachineImage]] = {}

    def find(self, image: ImageSpec) -> MachineImage:
        """The AMI mapped to the image. Raises NotFound when there is none, ProviderError while it is not ready."""
        site = self._client.site
        if not image.remote_id:
            raise NotFound(
                f"image {image.name} has no counterpart at site {site}: map it with "
                f"`isthmus image map {image.name} {site}=ami-...`",
                code="InvalidAMIID.NotFound",
            )
        with self._lock:
            read_at, known = self._seen.get(image.remote_id, (0.0, None))
        if known is not None and self._clock() - read_at <= CACHE_S:
            return known
        answer = self._client.call("describe_images", ImageIds=[image.remote_id])["Images"]
        if not answer:
            raise NotFound(
                f"{site} knows no image {image.remote_id} (mapped to {image.name})",
                code="InvalidAMIID.NotFound",
            )
        state = answer[0].get("State", "available")
        if state != "available":
            reason = answer[0].get("StateReason", {}).get("Message", "")
            raise ProviderError(
                f"{site}: image {image.remote_id} is {state} {reason}".rstrip(), code="ImageNotReady"
            )
        root = str(answer[0].get("RootDeviceName", ""))
        disks = {
            disk.get("DeviceName"): disk.get("Ebs", {}) for disk in answer[0].get("BlockDeviceMappings", [])
        }
        found = MachineImage(image.remote_id, root, int(disks.get(root, {}).get("VolumeSize") or 0))
        with self._lock:
            self._seen[image.remote_id] = (self._clock(), found)
        return found
