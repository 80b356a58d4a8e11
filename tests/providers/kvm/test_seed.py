"""The NoCloud seed is what cloud-init expects."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pycdlib
import pytest
from ruamel.yaml import YAML

from providers.kvm.seed import meta_data, network_config, seed_iso
from providers.port import NetworkSpec, NICSpec, VMSpec

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHhA me@laptop"


def yaml(text: str) -> Any:
    return YAML(typ="safe").load(text)


def read(iso: bytes) -> dict[str, str]:
    disc = pycdlib.PyCdlib()
    disc.open_fp(io.BytesIO(iso))
    files = {}
    for name in ("meta-data", "user-data", "network-config"):
        target = io.BytesIO()
        disc.get_file_from_iso_fp(target, rr_path=f"/{name}")
        files[name] = target.getvalue().decode()
    disc.close()
    return files


def test_seed_is_labelled_cidata_and_holds_the_three_files(make_spec: Callable[..., VMSpec]) -> None:
    spec = make_spec(user_data="#!/bin/sh\necho hello\n", ssh_keys=(KEY,))
    iso = seed_iso(spec)
    assert iso[32808:32840].strip() in (b"cidata", b"CIDATA")
    assert len(iso) % 2048 == 0
    assert read(iso) == {
        "meta-data": meta_data(spec),
        "user-data": "#!/bin/sh\necho hello\n",
        "network-config": network_config(spec.nics),
    }


def test_seed_without_user_data_is_valid_for_cloud_init(make_spec: Callable[..., VMSpec]) -> None:
    assert read(seed_iso(make_spec()))["user-data"] == "#cloud-config\n{}\n"


@pytest.mark.parametrize("size", [0, 2047, 2048, 2049, 12288])
def test_user_data_of_any_size_comes_through(make_spec: Callable[..., VMSpec], size: int) -> None:
    text = "#" + "x" * size
    assert read(seed_iso(make_spec(user_data=text)))["user-data"] == text


def test_meta_data_names_the_vm_and_its_keys(make_spec: Callable[..., VMSpec]) -> None:
    spec = make_spec(hostname="web.example", ssh_keys=(KEY, f"{KEY} # of: two\n"))
    assert yaml(meta_data(spec)) == {
        "instance-id": spec.id,
        "local-hostname": "web.example",
        "public-keys": [KEY, f"{KEY} # of: two"],
    }


@pytest.mark.parametrize("name", ["true", "No", "null", "on", "123", "1e5", "null-1", "web"])
def test_hostnames_stay_texts(make_spec: Callable[..., VMSpec], name: str) -> None:
    assert yaml(meta_data(make_spec(hostname=name)))["local-hostname"] == name


def test_network_is_static_by_mac_with_one_default_route(make_spec: Callable[..., VMSpec]) -> None:
    spec = make_spec()
    second = NetworkSpec("sub-2", "campus", "bridge", "10.2.0.0/24", "10.2.0.1", "br0", 9000, ("9.9.9.9",))
    nics = (*spec.nics, NICSpec(second, "52:54:00:AA:00:01", "10.2.0.9", 24, ("10.2.0.10", "10.2.0.11")))
    config = yaml(network_config(nics))
    assert config["version"] == 2
    first, other = config["ethernets"].values()
    assert first == {
        "match": {"macaddress": spec.nics[0].mac},
        "mtu": 1420,
        "dhcp4": False,
        "addresses": [f"{spec.nics[0].address}/24"],
        "gateway4": "10.77.0.1",
        "nameservers": {"addresses": ["10.77.0.1"]},
    }
    assert other == {
        "match": {"macaddress": "52:54:00:aa:00:01"},
        "mtu": 9000,
        "dhcp4": False,
        "addresses": ["10.2.0.9/24", "10.2.0.10/24", "10.2.0.11/24"],
        "nameservers": {"addresses": ["9.9.9.9"]},
    }


def test_vm_without_nics_has_an_empty_network(make_spec: Callable[..., VMSpec]) -> None:
    assert yaml(network_config(replace(make_spec(), nics=()).nics)) == {"version": 2}
