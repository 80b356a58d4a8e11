"""The tiny guest's own programs, run as they are under busybox on this machine."""

from __future__ import annotations

import shutil
import subprocess
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from pathlib import Path

import pytest

from lab.image import GUEST_FILES, WHERE

pytestmark = pytest.mark.skipif(shutil.which("busybox") is None, reason="busybox-static is not installed")

BLOCK = """\
version: 2
ethernets:
  eth0:
    match:
      macaddress: '52:54:00:0A:01:14'   # upper case is allowed
    addresses:
      - 10.10.1.20/24
    gateway4: 10.10.1.1
    mtu: 1420
    nameservers:
      addresses:
        - 9.9.9.9
"""
FLOW = """\
version: 2
ethernets:
  nic0:
    match: {macaddress: "52:54:00:0a:01:14"}
    addresses: ["10.10.1.20/24"]
    routes: [{to: default, via: 10.10.1.1}]
    nameservers: {addresses: [9.9.9.9]}
    mtu: 1420
"""
JSON = (
    '{"version":2,"ethernets":{"eth0":{"match":{"macaddress":"52:54:00:0a:01:14"},"addresses":["10.10.1.20/24"],'
    '"gateway4":"10.10.1.1","mtu":1420,"nameservers":{"addresses":["9.9.9.9"]}}}}'
)


def read_network_config(text: str) -> set[str]:
    """What the guest's awk program reads from a network-config."""
    script = (GUEST_FILES / "network").read_text()
    program = script.split("awk '\n")[1].split('\' "$config"')[0].replace("'\\''", "'")
    done = subprocess.run(["busybox", "awk", program], input=text, capture_output=True, text=True, check=True)
    return {" ".join(line.split()) for line in done.stdout.splitlines()}


@pytest.mark.parametrize("text", [BLOCK, FLOW, JSON], ids=["block", "flow", "json"])
def test_a_network_config_is_read_in_every_style_of_yaml(text: str) -> None:
    assert read_network_config(text) == {"52:54:00:0a:01:14 1420 10.10.1.1 10.10.1.20/24", "dns 9.9.9.9"}


def test_a_route_that_is_not_the_default_is_no_gateway() -> None:
    text = FLOW.replace("to: default", "to: 10.0.0.0/8")
    assert "52:54:00:0a:01:14 1420 - 10.10.1.20/24" in read_network_config(text)


def test_two_nics_keep_their_own_settings() -> None:
    second = (
        BLOCK.partition("ethernets:\n")[2].replace("0A:01:14", "0a:01:15").replace("10.10.1.", "10.10.9.")
    )
    lines = read_network_config(BLOCK + second.replace("eth0", "eth1"))
    assert "52:54:00:0a:01:14 1420 10.10.1.1 10.10.1.20/24" in lines
    assert "52:54:00:0a:01:15 1420 10.10.9.1 10.10.9.20/24" in lines


def run_user_data(tmp_path: Path, text: str) -> str:
    """The output of the guest's user-data runner."""
    file = tmp_path / "user-data"
    file.write_text(text)
    command = ["busybox", "ash", str(GUEST_FILES / "user-data"), str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=20).stdout


def test_a_user_data_script_is_run(tmp_path: Path) -> None:
    assert run_user_data(tmp_path, "#!/bin/sh\necho plain\n") == "plain\n"


def test_every_script_of_a_multipart_user_data_is_run_and_nothing_else(tmp_path: Path) -> None:
    message = MIMEMultipart()
    message.attach(MIMEText("#cloud-config\nhostname: x\n", "cloud-config"))
    message.attach(MIMEText("#!/bin/sh\necho first\n", "x-shellscript", "us-ascii"))
    message.attach(MIMEText("#!/bin/sh\necho zwei und drei: ü\n", "x-shellscript", "utf-8"))  # base64
    assert run_user_data(tmp_path, message.as_string()) == "first\nzwei und drei: ü\n"


def test_a_multipart_within_a_multipart_is_run_too(tmp_path: Path) -> None:
    inner = MIMEMultipart()
    inner.attach(MIMEText("#!/bin/sh\necho inner\n", "x-shellscript", "us-ascii"))
    outer = MIMEMultipart()
    outer.attach(inner)
    outer.attach(MIMEText("#!/bin/sh\necho outer\n", "x-shellscript", "us-ascii"))
    assert run_user_data(tmp_path, outer.as_string()) == "inner\nouter\n"


def test_cloud_config_alone_runs_nothing(tmp_path: Path) -> None:
    assert run_user_data(tmp_path, "#cloud-config\n{}\n") == ""


@pytest.mark.parametrize("name", sorted(set(WHERE) - {"inittab"}))
def test_a_guest_script_is_valid_for_busybox(name: str) -> None:
    subprocess.run(["busybox", "ash", "-n", str(GUEST_FILES / name)], check=True)


def test_every_guest_file_has_its_place() -> None:
    assert {path.name for path in GUEST_FILES.iterdir()} == set(WHERE)
