"""The lab's tiny guest: a Linux that boots in seconds under emulation, made of Debian packages.

It is one initramfs (busybox, dropbear, ``wg``, the QEMU guest agent and the kernel modules a VM needs), the
packages' own kernel, and a small disk that is mounted on ``/var/lib`` so that keys survive a reboot. It reads a
NoCloud seed: static addresses, host name, ssh keys and user data, whose scripts run at every boot.

The packages are downloaded once and the finished image is kept per recipe, so that a second use needs no network.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import lzma
import os
import shutil
import subprocess
import tempfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

PACKAGES = ("busybox-static", "dropbear-bin", "wireguard-tools", "qemu-guest-agent")
KERNELS = ("linux-image-cloud-amd64", "linux-image-virtual", "linux-image-amd64")
"""Kernel packages by preference: Debian's for virtual machines, Ubuntu's, Debian's general one."""

PROGRAMS = ("usr/bin/wg", "usr/sbin/dropbear", "usr/bin/dropbearkey", "usr/sbin/qemu-ga")
MODULES = (
    *("virtio_pci", "virtio_mmio", "virtio_blk", "virtio_net"),
    *("isofs", "crc32c_generic", "ext4"),
    *("virtio_console", "virtio_balloon", "virtio_rng", "evdev", "button"),
    *("wireguard", "vxlan", "bridge"),
)
CMDLINE = "console=ttyS0 quiet mitigations=off nokaslr tsc=reliable no_timer_check cryptomgr.notests nowatchdog audit=0"
DISK_MB = 64
GUEST_FILES = Path(__file__).parent / "guest"
WHERE = {
    "boot": "etc/boot",
    "network": "etc/network",
    "dhcp": "etc/dhcp",
    "user-data": "etc/user-data",
    "guest-agent": "etc/guest-agent",
    "halt": "etc/halt",
    "inittab": "etc/inittab",
    "shutdown": "sbin/shutdown",
    "hello": "www/cgi-bin/index.cgi",
}

Progress = Callable[[str], None]


class ImageError(Exception):
    """The image cannot be built; the text says why and what to do."""


@dataclass(frozen=True)
class TinyImage:
    """A guest that boots from its kernel and initrd; ``disk`` (qcow2) is what VMs are cloned from."""

    disk: Path
    kernel: Path
    initrd: Path
    cmdline: str = CMDLINE


def default_cache() -> Path:
    """Where packages and images are kept: ``$XDG_CACHE_HOME/isthmus/lab``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "isthmus" / "lab"


def build(cache_dir: Path | str | None = None, progress: Progress | None = None) -> TinyImage:
    """The tiny guest, built at first use and taken from ``cache_dir`` from then on.

    Safe to call from several processes at once: each builds aside, the first to finish wins. Raises
    ImageError when a package is not to be had or a tool is missing.
    """
    tell = progress or (lambda text: None)
    cache = Path(cache_dir) if cache_dir is not None else default_cache()
    home = cache / f"guest-{_recipe()}"
    image = TinyImage(home / "disk.qcow2", home / "vmlinux", home / "initrd.gz")
    if home.is_dir():
        return image
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="build-", dir=cache) as name:
        work = Path(name)
        debs = _download(cache / "packages", tell)
        tell(f"unpacking {len(debs)} packages")
        root = work / "packages"
        for deb in debs:
            _run(["dpkg-deb", "-x", str(deb), str(root)])
        out = work / "image"
        out.mkdir()
        release, bzimage = _kernel(root)
        tell(f"guest kernel {release}")
        (out / "vmlinux").write_bytes(_decompressed(bzimage.read_bytes(), work))
        tell("packing the guest's initramfs and disk")
        guest = work / "guest"
        _populate(guest, root, release)
        _pack(guest, out / "initrd.gz")
        _make_disk(work / "disk.raw", out / "disk.qcow2")
        versions = sorted(deb.name for deb in debs)
        (out / "manifest.json").write_text(json.dumps({"kernel": release, "packages": versions}, indent=1))
        try:
            out.rename(home)
        except OSError:
            if not home.is_dir():
                raise
    return image


def _recipe() -> str:
    """A short hash of all that decides what the image is, except the packages' versions."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for path in sorted(GUEST_FILES.iterdir()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def _run(command: Sequence[str], cwd: Path | None = None) -> str:
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True)
    except FileNotFoundError as error:
        raise ImageError(f"{command[0]} is not installed; run `make setup`") from error
    except subprocess.CalledProcessError as error:
        raise ImageError(f"{' '.join(command)}: {error.stderr.strip() or error.returncode}") from error
    return done.stdout


def _download(directory: Path, tell: Progress) -> list[Path]:
    """The packages and the libraries they need, as files; only what is not there yet is downloaded."""
    directory.mkdir(parents=True, exist_ok=True)
    names = _closure([*PACKAGES, _candidate()])
    wanted: list[Path] = []
    missing: list[str] = []
    uris = _run(["apt-get", "download", "--print-uris", *names])
    for line in uris.splitlines():
        # 'URI' FILE SIZE HASH, as apt-get(8) prints it
        _, file, size, _ = line.split()
        path = directory / file
        wanted.append(path)
        if not path.is_file() or path.stat().st_size != int(size):
            missing.append(file.split("_")[0])
    if missing:
        tell(f"downloading {len(missing)} Debian packages for the guest image")
        with tempfile.TemporaryDirectory(prefix="get-", dir=directory) as name:
            # apt's unprivileged sandbox user cannot write here; apt checks the packages' hashes itself.
            _run(["apt-get", "-o", "APT::Sandbox::User=root", "download", *missing], cwd=Path(name))
            for deb in Path(name).glob("*.deb"):
                deb.replace(directory / deb.name)
    return wanted


def _candidate() -> str:
    """The best kernel package that apt knows."""
    known = _run(["apt-cache", "pkgnames", "linux-image-"]).split()
    for name in KERNELS:
        if name in known:
            return name
    raise ImageError(f"apt knows none of {', '.join(KERNELS)}; run `apt-get update` and try again")


def _closure(names: Iterable[str]) -> list[str]:
    """``names``, the kernel package behind a metapackage, and the libraries they depend on."""
    options = [
        f"--no-{kind}" for kind in ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances")
    ]
    text = _run(["apt-cache", "depends", *options, *names])
    found = list(names)
    queue = [text]
    while queue:
        new = []
        for line in queue.pop().splitlines():
            kind, _, name = line.strip().partition(": ")
            library = name.startswith(("lib", "zlib1g", "linux-image-", "linux-modules-"))
            if kind.endswith("Depends") and library and ":" not in name and name not in found:
                new.append(name)
                found.append(name)
        if new:
            queue.append(_run(["apt-cache", "depends", *options, *new]))
    return found


def _kernel(root: Path) -> tuple[str, Path]:
    """(release, bzImage) of the unpacked kernel package."""
    images = sorted((root / "boot").glob("vmlinuz-*"))
    if not images:
        raise ImageError("the kernel package holds no boot/vmlinuz-*")
    return images[-1].name.removeprefix("vmlinuz-"), images[-1]


def _decompressed(bzimage: bytes, work: Path) -> bytes:
    """The ELF kernel inside a bzImage: QEMU enters it by PVH and the guest need not unpack itself.

    A bzImage whose packing is not known here boots as well, a second slower.
    """
    for magic, unpack in ((b"\x02\x21\x4c\x18", _lz4), (b"\x1f\x8b\x08", _gunzip), (b"\xfd7zXZ\0", _unxz)):
        start = bzimage.find(magic)
        if start > 0:
            kernel = unpack(bzimage[start:], work)
            if kernel.startswith(b"\x7fELF"):
                return kernel
    return bzimage


def _lz4(data: bytes, work: Path) -> bytes:
    source, target = work / "kernel.lz4", work / "kernel"
    source.write_bytes(data)
    try:
        # Other bytes follow the stream, so its exit status means nothing.
        subprocess.run(["lz4", "-d", "-f", "-q", str(source), str(target)], capture_output=True, check=False)
    except FileNotFoundError:
        return b""
    return target.read_bytes() if target.is_file() else b""


def _gunzip(data: bytes, work: Path) -> bytes:
    try:
        return zlib.decompressobj(wbits=31).decompress(data)
    except zlib.error:
        return b""


def _unxz(data: bytes, work: Path) -> bytes:
    try:
        return lzma.LZMADecompressor().decompress(data)
    except lzma.LZMAError:
        return b""


def _populate(guest: Path, root: Path, release: str) -> None:
    """Fill ``guest`` with the guest's whole file system."""
    for name in (
        "bin",
        "sbin",
        "usr/bin",
        "usr/sbin",
        "etc/acpi/PWRF",
        "proc",
        "sys",
        "dev",
        "run",
        "tmp",
        "mnt",
    ):
        (guest / name).mkdir(parents=True)
    for name in ("root", "var/lib", "var/log", "www/cgi-bin"):
        (guest / name).mkdir(parents=True)

    busybox = guest / "bin/busybox"
    shutil.copy2(_first(root, "bin/busybox", "usr/bin/busybox"), busybox)
    for applet in _run([str(busybox), "--list-full"]).split():
        link = guest / applet
        if link != busybox and not link.exists():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to("/bin/busybox")
    (guest / "init").symlink_to("/bin/busybox")

    programs = [root / name for name in PROGRAMS]
    for program in programs:
        shutil.copy2(program, guest / program.relative_to(root))
    for place, library in _libraries(root, programs).items():
        (guest / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(library.resolve(), guest / place)
    _copy_modules(guest, root, release)

    for name, place in WHERE.items():
        (guest / place).unlink(missing_ok=True)
        shutil.copy(GUEST_FILES / name, guest / place)
        (guest / place).chmod(0o644 if name == "inittab" else 0o755)
    power = guest / "etc/acpi/PWRF/00000080"
    power.write_text("#!/bin/sh\nexec poweroff\n")
    power.chmod(0o755)
    (guest / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (guest / "etc/shadow").write_text("root:*:19000:0:99999:7:::\n")
    (guest / "etc/group").write_text("root:x:0:\n")
    (guest / "etc/shells").write_text("/bin/sh\n")
    (guest / "etc/profile").write_text("export PATH=/sbin:/usr/sbin:/bin:/usr/bin\n")


def _first(root: Path, *names: str) -> Path:
    for name in names:
        if (root / name).is_file():
            return root / name
    raise ImageError(f"the packages hold none of {', '.join(names)}")


LOADER = "lib64/ld-linux-x86-64.so.2"


def _libraries(root: Path, programs: Iterable[Path]) -> dict[str, Path]:
    """Where in the guest -> file of ``root``: the shared libraries of ``programs``, as the packages' own dynamic
    loader finds them, and that loader."""
    triplet = "x86_64-linux-gnu"
    loader = _first(
        root, f"lib/{triplet}/ld-linux-x86-64.so.2", f"usr/lib/{triplet}/ld-linux-x86-64.so.2", LOADER
    )
    path = ":".join(str(root / name) for name in (f"lib/{triplet}", f"usr/lib/{triplet}"))
    found = {LOADER: loader}
    for program in programs:
        for line in _run([str(loader), "--library-path", path, "--list", str(program)]).splitlines():
            _, _, place = line.partition(" => ")
            file = Path(place.split(" (")[0].strip())
            if place and file.is_relative_to(root):
                found[str(file.relative_to(root))] = file
    return found


def _copy_modules(guest: Path, root: Path, release: str) -> None:
    """Copy MODULES and what they depend on, with a ``modules.dep`` that busybox modprobe reads.

    The dependencies are read from the modules themselves (``depends=`` in their .modinfo section), since a kernel
    package brings no ``modules.dep``: that is made at installation.
    """
    source = next(
        (
            root / prefix / release
            for prefix in ("lib/modules", "usr/lib/modules")
            if (root / prefix / release).is_dir()
        ),
        None,
    )
    if source is None:
        raise ImageError(f"the kernel package holds no modules of {release}")
    files = {path.name.split(".")[0].replace("-", "_"): path for path in source.rglob("*.ko*")}
    target = guest / "lib/modules" / release
    target.mkdir(parents=True)
    direct: dict[str, list[str]] = {}
    queue = [name for name in MODULES if name in files]  # any other is built in
    while queue:
        name = queue.pop()
        if name in direct:
            continue
        data = files[name].read_bytes()
        if files[name].suffix == ".xz":
            data = lzma.decompress(data)
        (target / f"{name}.ko").write_bytes(data)
        start = data.index(b"\0depends=") + len(b"\0depends=")
        needs = data[start : data.index(b"\0", start)].decode().replace("-", "_")
        direct[name] = [need for need in needs.split(",") if need in files]
        queue += direct[name]

    def all_needs(name: str) -> list[str]:
        """What ``name`` needs, nearest first: modprobe inserts them from the far end."""
        found: list[str] = []
        for need in direct[name]:
            for each in (need, *all_needs(need)):
                if each in found:
                    found.remove(each)
                found.append(each)
        return found

    lines = (f"{name}.ko: {' '.join(f'{need}.ko' for need in all_needs(name))}\n" for name in sorted(direct))
    (target / "modules.dep").write_text("".join(lines))


def _pack(guest: Path, target: Path) -> None:
    """The directory as a compressed cpio archive that the kernel unpacks into its root."""
    names = sorted(str(path.relative_to(guest)) for path in guest.rglob("*"))
    try:
        archive = subprocess.run(
            ["cpio", "--quiet", "-o", "-H", "newc", "-R", "0:0"],
            input="\n".join(names).encode(),
            cwd=guest,
            capture_output=True,
            check=True,
        )
    except FileNotFoundError as error:
        raise ImageError("cpio is not installed; run `make setup`") from error
    target.write_bytes(gzip.compress(archive.stdout, compresslevel=9, mtime=0))


def _make_disk(raw: Path, target: Path) -> None:
    with raw.open("wb") as file:
        file.truncate(DISK_MB * 1024 * 1024)
    _run(["mke2fs", "-q", "-t", "ext4", "-F", "-L", "kept", "-m", "0", "-E", "lazy_itable_init=0", str(raw)])
    _run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(target)])
