"""A KVM host of the lab: a node with its own libvirtd, which any libvirt client opens by ``Host.uri``."""

from __future__ import annotations

import contextlib
import hashlib
import os
import uuid
from pathlib import Path

from lab import process
from lab.node import SOCKET_PATH_MAX, Node, NodeError

LIBVIRT_USER = "libvirt-qemu"
LIBVIRTD_CONF = """\
host_uuid = "{uuid}"
unix_sock_group = "root"
unix_sock_rw_perms = "0700"
auth_unix_ro = "none"
auth_unix_rw = "none"
log_outputs = "2:file:/var/log/libvirt/libvirtd.log"
"""
QEMU_CONF = """\
user = "root"
group = "root"
security_driver = "none"
dynamic_ownership = 0
remember_owner = 0
namespaces = []
cgroup_controllers = []
stdio_handler = "file"
"""
HUGEPAGES = "/run/hugepages"
MIGRATION_CONF = """\
migration_address = "{address}"
migration_host = "{address}"
"""


class Host(Node):
    """One KVM host. Its libvirtd, virtlogd, networks, pools and guests are its own, and end with it."""

    def __init__(self, name: str, directory: Path, *, lab: Path | None = None, address: str = "") -> None:
        """``address``: where other hosts migrate VMs to; without one nothing is migrated here."""
        super().__init__(name, directory, lab=lab)
        self.address = address
        if len(os.fsencode(self.socket)) > SOCKET_PATH_MAX:
            raise NodeError(
                f"{self.socket}: longer than the {SOCKET_PATH_MAX} bytes a socket's path may have"
            )

    @property
    def socket(self) -> Path:
        """libvirtd's socket, as the machine's own programs see it."""
        return self.directory / "run" / "libvirt" / "libvirt-sock"

    @property
    def uri(self) -> str:
        """What ``libvirt.open()`` and ``isthmus site add kvm --host`` take."""
        return f"qemu+unix:///system?socket={self.socket}"

    def up(self, timeout_s: float = 60.0) -> None:
        """Start the node and its libvirtd; nothing when they are up. Raises NodeError."""
        config = self.directory / "etc-libvirt"
        config.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256(os.fsencode(self.directory)).digest()
        (config / "libvirtd.conf").write_text(
            LIBVIRTD_CONF.format(uuid=uuid.UUID(bytes=digest[:16], version=4))
        )
        self._add_user()
        super().up(timeout_s)
        migration = MIGRATION_CONF.format(address=self.address) if self.address else ""
        pages = f'hugetlbfs_mount = "{HUGEPAGES}"\n' if self._has_hugepages() else ""
        (config / "qemu.conf").write_text(QEMU_CONF + pages + migration)
        self.start_libvirtd(timeout_s)

    def _has_hugepages(self) -> bool:
        """Mount them where libvirt will look; False where the kernel has none."""
        if not self.run(["mountpoint", "-q", HUGEPAGES], check=False).returncode:
            return True
        self.run(["mkdir", "-p", HUGEPAGES])
        mount = ["mount", "-t", "hugetlbfs", "hugetlbfs", HUGEPAGES]
        return not self.run(mount, check=False).returncode

    def _add_user(self) -> None:
        """Give the host the user that Debian's libvirt is built for: it will not start without, though it runs all
        guests as root here. It comes with libvirt-daemon-system, which would set up a libvirtd of the machine's own.
        """
        for file, line in (
            ("passwd", "x:64055:64055::/nonexistent:/usr/sbin/nologin"),
            ("group", "x:64055:"),
        ):
            text = Path("/etc", file).read_text()
            if not any(each.startswith(f"{LIBVIRT_USER}:") for each in text.splitlines()):
                (self.directory / file).write_text(f"{text.rstrip()}\n{LIBVIRT_USER}:{line}\n")

    def start_libvirtd(self, timeout_s: float = 60.0) -> None:
        """Start libvirtd and virtlogd; nothing when they run. Guests that outlived a libvirtd are taken over."""
        for daemon in ("virtlogd", "libvirtd"):
            if not self.daemon_pid(daemon):
                # With -d it returns when its socket is there.
                self.run([daemon, "-d"], timeout_s=timeout_s)
        # It answers only once it knows what its QEMU can do.
        done = self.run(["virsh", "-q", "-c", "qemu:///system", "version"], check=False, timeout_s=timeout_s)
        if done.returncode:
            raise NodeError(f"host {self.name}: libvirtd: {done.stderr.strip()}\n{self.log_tail('libvirtd')}")

    def daemon_pid(self, daemon: str) -> int:
        """The id of ``libvirtd`` or ``virtlogd`` as this process sees it; 0 when it does not run."""
        for pid in process.children(self.pid):
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/comm").read_text().strip() == daemon and process.started_at(pid):
                    return pid
        return 0
