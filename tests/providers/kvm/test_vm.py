"""VMs on a real libvirt and QEMU: made once, whatever is cut off; seen when touched by hand; gone without a trace."""

from __future__ import annotations

import os
import pickle
import signal
import stat
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from providers.kvm import KvmProvider
from providers.kvm import pool as volumes
from providers.kvm import vm as vms
from providers.kvm.acceleration import kvm_boots
from providers.kvm.domain import domain_name
from providers.kvm.host import Session
from providers.kvm.image import find_image
from providers.kvm.options import POOL_PATH
from providers.port import (
    AuthenticationFailed,
    InvalidSpec,
    NetworkSpec,
    NotFound,
    OutOfCapacity,
    ProviderError,
    Unreachable,
    VMSpec,
    VMState,
)
from tests.providers.observed import observed

if TYPE_CHECKING:
    from tests.providers.kvm.conftest import RealHost, WaitFor

pytestmark = pytest.mark.lab
RELAY = """
import os, selectors, socket
far = socket.socket(socket.AF_UNIX)
far.connect("SOCKET")
both = selectors.DefaultSelector()
both.register(0, selectors.EVENT_READ)
both.register(far, selectors.EVENT_READ)
while True:
    for ready, _ in both.select():
        data = os.read(ready.fd, 65536)
        if not data:
            raise SystemExit
        if ready.fd == 0:
            far.sendall(data)
        while data and ready.fd != 0:
            data = data[os.write(1, data):]
"""
REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture
def spec(make_spec: Callable[..., VMSpec], real_host: RealHost) -> VMSpec:
    return make_spec(image=real_host.image)


def domains(campus: KvmProvider) -> list[str]:
    return sorted(vm.name for vm in campus.list_vms().vms)


def test_guest_boots_at_its_address_and_survives_a_reboot(
    campus: KvmProvider, real_host: RealHost, spec: VMSpec, wait_for: WaitFor
) -> None:
    """The one test here that waits for a guest: it earns the proof that XML, seed and network are right."""
    first = campus.ensure_vm(spec)
    assert (first.state, first.vm_id, first.ref) == (VMState.RUNNING, spec.id, spec.uuid)
    assert campus.ensure_vm(spec) == first
    assert [vm.ref for vm in campus.list_vms().vms] == [spec.uuid]

    def boots() -> int:
        return campus.console_log("a", first.ref).count(b"isthmus-guest ready")

    wait_for(lambda: boots() == 1, 60)
    fetch = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1], timeout=5).read().decode())"
    address = spec.nics[0].address

    def page() -> str:
        command = [sys.executable, "-c", fetch, f"http://{address}/"]
        return real_host.node.run(command, check=False).stdout

    assert f"hello from {spec.name} at {address}" in wait_for(page, 30)
    asked = [0.0]

    def rebooted() -> bool:
        if time.monotonic() - asked[0] > 10:  # a guest that has only just booted may not listen yet
            campus.reboot_vm("a", first.ref)
            asked[0] = time.monotonic()
        return boots() == 2

    wait_for(rebooted, 60)

    def stopped() -> bool:
        campus.stop_vm("a", first.ref)
        return observed(campus, "a", spec.id).state is VMState.STOPPED

    wait_for(stopped, 60)
    campus.start_vm("a", first.ref)
    assert observed(campus, "a", spec.id).state is VMState.RUNNING


def test_delete_leaves_no_domain_and_no_file(campus: KvmProvider, real_host: RealHost, spec: VMSpec) -> None:
    ref = campus.ensure_vm(spec).ref
    assert real_host.files() == [f"{spec.id}.console.log", f"{spec.id}.qcow2", f"{spec.id}.seed.iso"]
    (real_host.pool / f"{spec.id}.console.log.0").write_text("a rotated log that libvirt does not know of")
    campus.delete_vm("a", spec.id, ref)
    assert (domains(campus), real_host.files()) == ([], [])
    campus.delete_vm("a", spec.id, ref)


def test_only_root_of_the_host_reads_what_is_a_users_own(
    campus: KvmProvider, real_host: RealHost, spec: VMSpec
) -> None:
    campus.ensure_vm(spec)
    modes = {name: stat.S_IMODE((real_host.pool / name).stat().st_mode) for name in real_host.files()}
    assert set(modes.values()) == {0o600}, modes


def test_delete_finishes_when_half_of_it_is_gone(
    campus: KvmProvider, real_host: RealHost, spec: VMSpec
) -> None:
    ref = campus.ensure_vm(spec).ref

    def undefine(session: Session) -> None:
        domain = session.connection.lookupByUUIDString(ref)
        domain.destroy()
        domain.undefine()

    campus._host("a").call(undefine)
    (real_host.pool / f"{spec.id}.seed.iso").unlink()
    campus.delete_vm("a", spec.id, ref)
    assert real_host.files() == []


def test_disk_of_a_broken_off_attempt_is_used_with_its_data(
    campus: KvmProvider, real_host: RealHost, spec: VMSpec
) -> None:
    host = campus._host("a")

    def make_disk(session: Session) -> None:
        image = find_image(session.pool, POOL_PATH, spec.image)
        assert image is not None
        volumes.create_clone(session.pool, vms.disk_name(spec.id), 1024**3, image.disk, "qcow2")

    host.call(make_disk)
    inode = (real_host.pool / f"{spec.id}.qcow2").stat().st_ino
    assert campus.ensure_vm(spec).state is VMState.RUNNING
    assert (real_host.pool / f"{spec.id}.qcow2").stat().st_ino == inode


def test_disk_that_was_cut_short_is_made_anew(campus: KvmProvider, real_host: RealHost, spec: VMSpec) -> None:
    campus._host("a").call(lambda session: volumes.create_empty(session.pool, vms.disk_name(spec.id), 512))
    assert campus.ensure_vm(spec).state is VMState.RUNNING
    assert (real_host.pool / f"{spec.id}.qcow2").read_bytes()[:4] == b"QFI\xfb"


def test_domain_that_was_defined_but_not_started_is_started(
    campus: KvmProvider, spec: VMSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(vms, "start", lambda domain: None)
        assert campus.ensure_vm(spec).state is VMState.STOPPED
    assert campus.ensure_vm(spec).state is VMState.RUNNING


@pytest.mark.parametrize("after_ms", [5, 20, 60, 150, 400])
def test_killed_broker_leaves_one_vm_after_the_next_try(
    campus: KvmProvider, real_host: RealHost, spec: VMSpec, after_ms: int, wait_for: WaitFor
) -> None:
    program = textwrap.dedent("""
        import os, pickle, signal, sys, threading
        sys.path.insert(0, sys.argv[1])
        from providers.kvm import KvmProvider
        context, spec, after_s = pickle.load(sys.stdin.buffer)
        provider = KvmProvider(context)
        provider.check()
        threading.Timer(after_s, os.kill, (os.getpid(), signal.SIGKILL)).start()
        provider.ensure_vm(spec)
        signal.pause()
    """)
    given = pickle.dumps((campus._context, spec, after_ms / 1000))
    killed = subprocess.run(
        [sys.executable, "-c", program, str(REPOSITORY)], input=given, timeout=60, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    # libvirtd may be at work still on what the dead broker asked for last; then the VM is seen as pending.
    wait_for(lambda: campus.ensure_vm(spec).state is VMState.RUNNING)
    assert domains(campus) == [spec.name]
    campus.delete_vm("a", spec.id)
    assert (domains(campus), real_host.files()) == ([], [])


def test_vm_that_cannot_start_leaves_nothing(campus: KvmProvider, real_host: RealHost, spec: VMSpec) -> None:
    with pytest.raises(ProviderError) as refusal:
        campus.ensure_vm(replace(spec, mem_mb=200_000_000))
    assert isinstance(refusal.value, OutOfCapacity), refusal.value
    assert (domains(campus), real_host.files()) == ([], [])


def test_what_is_done_by_hand_is_seen_and_told(campus: KvmProvider, spec: VMSpec, wait_for: WaitFor) -> None:
    told: list[str] = []
    watcher = threading.Thread(target=campus.watch, args=(lambda vm_id, _host: told.append(vm_id),))
    watcher.start()
    try:
        wait_for(lambda: "" in told, 10)  # registered
        ref = campus.ensure_vm(spec).ref
        wait_for(lambda: spec.id in told, 10)
        told.clear()
        campus._host("a").call(lambda session: session.connection.lookupByUUIDString(ref).destroy())
        report = observed(campus, "a", spec.id, ref)
        assert (report.state, report.reason) == (VMState.STOPPED, "destroyed")
        wait_for(lambda: spec.id in told, 10)
        campus._host("a").call(lambda session: session.connection.lookupByUUIDString(ref).undefine())
        assert campus.observe_vm("a", spec.id, ref) is None
        campus.delete_vm("a", spec.id, ref)
    finally:
        campus.close()
        watcher.join(10)
    assert not watcher.is_alive()
    campus._host("a").connection._closed = False  # the fixture cleans up over it


def test_stranger_on_the_host_is_listed_and_counted(campus: KvmProvider, spec: VMSpec) -> None:
    xml = """<domain type='qemu'><name>legacy</name><memory unit='MiB'>64</memory><vcpu>2</vcpu>
      <os><type arch='x86_64' machine='q35'>hvm</type></os></domain>"""
    stranger = campus._host("a").call(lambda session: session.connection.createXML(xml, 0))
    try:
        report = campus.inventory()[0]
        assert (report.reserved_vcpus, report.reserved_mem_mb) == (2.0, 64.0)
        assert [(vm.name, vm.vm_id) for vm in campus.list_vms().vms] == [("legacy", "")]
    finally:
        stranger.destroy()


def test_image_is_uploaded_once_by_callers_at_once(
    make_provider: Callable[..., KvmProvider], real_host: RealHost
) -> None:
    image = replace(real_host.image, id="img-once")
    site = make_provider([{"uri": real_host.uri, "name": "a"}], acceleration="tcg")
    steps: list[tuple[int, int]] = []

    def upload() -> None:
        site.ensure_image("a", image, lambda done, total: steps.append((done, total)))

    threads = [threading.Thread(target=upload) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    total = sum(os.path.getsize(path) for path in (image.path, image.kernel, image.initrd))
    assert steps[-1] == (total, total)
    assert [done for done, _ in steps] == sorted({done for done, _ in steps})
    stored = sorted(real_host.pool.glob("img-once-*"))
    assert [path.suffix for path in stored] == [".complete", ".disk", ".initrd", ".kernel"]
    assert stored[1].read_bytes() == Path(image.path).read_bytes()
    assert stored[3].read_bytes() == Path(image.kernel).read_bytes()


def test_upload_that_broke_off_is_not_taken_for_an_image(
    make_provider: Callable[..., KvmProvider], real_host: RealHost
) -> None:
    image = replace(real_host.image, id="img-torn")
    site = make_provider([{"uri": real_host.uri, "name": "a"}], acceleration="tcg")

    def tear(done: int, _total: int) -> None:
        if done > 2_000_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        site.ensure_image("a", image, tear)
    assert sorted(real_host.pool.glob("img-torn-*")) == []
    # A killed broker takes nothing back: its files stay, without the mark.
    (real_host.pool / "img-torn-abababababab-00000000.disk").write_bytes(b"QFI\xfb")
    site._host("a").call(lambda session: volumes.refresh(session.pool))
    site.ensure_image("a", image)
    files = site._host("a").call(lambda session: find_image(session.pool, POOL_PATH, image))
    assert files is not None
    assert "00000000" not in files.disk
    assert (real_host.pool / Path(files.disk).name).read_bytes() == Path(image.path).read_bytes()


def test_image_that_was_taken_away_is_asked_for_again(
    make_provider: Callable[..., KvmProvider],
    real_host: RealHost,
    network: NetworkSpec,
    make_spec: Callable[..., VMSpec],
) -> None:
    image = replace(real_host.image, id="img-lost")
    site = make_provider([{"uri": real_host.uri, "name": "a"}], acceleration="tcg")
    site.ensure_image("a", image)
    site.ensure_network("a", network)
    for path in real_host.pool.glob("img-lost-*.disk"):
        path.unlink()
    spec = make_spec(image=image)
    with pytest.raises(NotFound, match="image tiny is gone from host a"):
        site.ensure_vm(spec)
    assert real_host.files() == []
    site.ensure_image("a", image)
    assert site.ensure_vm(spec).state is VMState.RUNNING
    site.delete_vm("a", spec.id)


def test_host_behind_ssh_needs_nothing_but_the_connection(
    make_provider: Callable[..., KvmProvider],
    real_host: RealHost,
    network: NetworkSpec,
    make_spec: Callable[..., VMSpec],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In place of ssh a program that joins its standard streams to libvirt's socket, as ssh and its far end do."""
    socket = real_host.uri.partition("socket=")[2]
    ssh = tmp_path / "ssh"
    ssh.write_text(f"#!{sys.executable}\n{RELAY}".replace("SOCKET", socket))
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    site = make_provider([{"uri": "qemu+ssh://root@node1/system", "name": "a"}], acceleration="tcg")
    image = replace(real_host.image, id="img-ssh")
    site.ensure_image("a", image)
    site.ensure_network("a", network)
    spec = make_spec(image=image)
    ref = site.ensure_vm(spec).ref
    assert isinstance(site.console_log("a", ref), bytes)
    site.delete_vm("a", spec.id, ref)
    assert real_host.files() == []


def test_ssh_that_is_refused_is_told_as_such(
    make_provider: Callable[..., KvmProvider], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ssh = tmp_path / "ssh"
    ssh.write_text(
        "#!/bin/sh\nhead -c 1 >/dev/null\necho 'root@node1: Permission denied (publickey).' >&2\nexit 255\n"
    )
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    site = make_provider(["qemu+ssh://root@node1/system"])
    with pytest.raises(AuthenticationFailed, match=r"host node1: .*Permission denied .*check the user"):
        site.check()


def test_bridge_that_the_host_lacks_is_told(
    campus: KvmProvider, real_host: RealHost, network: NetworkSpec, spec: VMSpec
) -> None:
    bridged = replace(network, id="sub-9", name="campus", mode="bridge", bridge="br7")
    spec = replace(spec, nics=(replace(spec.nics[0], network=bridged),))
    campus.ensure_network("a", bridged)
    with pytest.raises(InvalidSpec, match=r"host a: .*br7.*make the bridge"):
        campus.ensure_vm(spec)
    assert (domains(campus), real_host.files()) == ([], [])
    real_host.node.run(["ip", "link", "add", "br7", "type", "bridge"])
    assert campus.ensure_vm(spec).state is VMState.RUNNING


def test_hung_libvirtd_costs_one_deadline_and_other_hosts_nothing(
    make_provider: Callable[..., KvmProvider], real_host: RealHost, node_uri: str, wait_for: WaitFor
) -> None:
    site = make_provider(
        [{"uri": real_host.uri, "name": "a"}, {"uri": node_uri, "name": "b"}],
        timeout_s=3.0,
        acceleration="tcg",
    )
    site.check()
    pid = real_host.node.daemon_pid("libvirtd")
    os.kill(pid, signal.SIGSTOP)
    try:
        begun = time.monotonic()
        with pytest.raises(Unreachable, match="no answer from libvirt within 3 s"):
            site.observe_vm("a", "vm-1")
        assert site.observe_vm("b", "vm-1") is None
        listing = site.list_vms()
        assert set(listing.unreachable) == {"a"}, listing.unreachable
        assert listing.complete == {"b"}
        assert time.monotonic() - begun < 9.0
    finally:
        os.kill(pid, signal.SIGCONT)

    def answers() -> bool:
        try:
            return site.observe_vm("a", "vm-1") is None
        except Unreachable:
            return False

    wait_for(answers, 20)


def test_libvirtd_that_was_killed_and_restarted_is_found_again(
    campus: KvmProvider, real_host: RealHost, spec: VMSpec, wait_for: WaitFor
) -> None:
    ref = campus.ensure_vm(spec).ref
    os.kill(real_host.node.daemon_pid("libvirtd"), signal.SIGKILL)
    wait_for(lambda: not real_host.node.daemon_pid("libvirtd"))
    real_host.node.start_libvirtd()
    assert observed(campus, "a", spec.id, ref).state is VMState.RUNNING
    assert campus.ensure_vm(spec).ref == ref


def test_probe_boots_where_guests_boot_and_leaves_nothing(
    campus: KvmProvider, real_host: RealHost, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def probe() -> tuple[bool, str]:
        # Emulation stands for KVM here: the sector must boot and power off wherever guests run at all.
        return campus._host("a").call(
            lambda session: kvm_boots(
                session.connection, session.pool, POOL_PATH, cpu_mode="maximum", domain_type="qemu"
            )
        )

    monkeypatch.setattr("providers.kvm.acceleration.PROBE_S", 60.0)
    boots, words = probe()
    assert boots, words
    monkeypatch.setattr("providers.kvm.acceleration.PROBE_S", 0.5)
    monkeypatch.setattr(
        "providers.kvm.acceleration.boot_sector", lambda: b"\xeb\xfe".ljust(510, b"\0") + b"\x55\xaa"
    )
    assert probe() == (False, "a guest had not powered off after 0.5 s")
    assert (domains(campus), real_host.files()) == ([], [])


def test_acceleration_is_found_out_once_and_reported(
    make_provider: Callable[..., KvmProvider], real_host: RealHost, tmp_path: Path
) -> None:
    site = make_provider([{"uri": real_host.uri, "name": "a"}])
    found = site.inventory()[0].attributes["acceleration"]
    assert found in ("kvm", "tcg")
    listed = (tmp_path / "cache-0" / "acceleration.json").exists()
    assert listed or found == "tcg"  # without KVM in the capabilities nothing was tried


def test_domain_names_are_ours(campus: KvmProvider, spec: VMSpec) -> None:
    campus.ensure_vm(spec)
    name = campus._host("a").call(lambda session: session.connection.lookupByUUIDString(spec.uuid).name())
    assert name == domain_name(spec.id)
