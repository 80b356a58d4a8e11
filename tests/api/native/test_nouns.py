"""Every other noun over the native API, through the SDK, on the real broker."""

from __future__ import annotations

from typing import Any

import pytest

import isthmus

POLICY = """\
version: 1
placement:
  rank: 'cpu_free'
burst:
  to: [cloud]
  open: {any: ['local.cpu_used > 0.9']}
  close: {all: ['local.cpu_used < 0.6'], for: 1m}
"""


def cloud(client: isthmus.Client) -> isthmus.Site:
    types = {"t3.small": {"vcpus": 2, "mem_mb": 2048, "price_hour": 0.02}}
    return client.sites.create(
        "cloud", "simulated", options={"elastic": True, "zones": ["eu-1a"], "types": types}
    )


def test_a_site_shows_its_hosts_and_looks_again_when_asked(furnished: Any) -> None:
    client = furnished.client()
    site = client.sites.get("campus")
    assert (site.kind, site.state, site.hosts) == ("simulated", "up", 2)
    assert site.look().state == "up"
    assert site.refresh().id == site.id
    hosts = list(client.hosts.list(site="campus"))
    assert len(hosts) == 2
    assert hosts[0].vcpus_free == hosts[0].vcpus_total > 0
    assert hosts[0].attributes["hypervisor"] == "simulated"
    with pytest.raises(isthmus.NotFound):
        list(client.hosts.list(site="nowhere"))


def test_a_site_that_holds_nothing_of_ours_can_be_removed(world: Any) -> None:
    client = world.client()
    client.sites.create("spare", "simulated", options={"hosts": 1}).delete()
    assert list(client.sites.list()) == []


def test_a_site_that_does_not_answer_is_unavailable(world: Any) -> None:
    fail = [{"method": "check", "error": "Unreachable", "message": "no route to host"}]
    with pytest.raises(isthmus.Unavailable, match="no route to host"):
        world.client().sites.create("far", "simulated", options={"hosts": 1, "fail": fail})


def test_a_host_in_maintenance_takes_no_vm(furnished: Any) -> None:
    client = furnished.client()
    first, second = client.hosts.list()
    assert first.maintenance().state == "maintenance"
    vm = client.vms.create("web", "tiny", "small").wait_until("running", 30, poll=0.2)
    assert vm.host == second.name
    assert first.maintenance(False).state == "up"


def test_a_host_of_a_cloud_is_found_by_a_name_with_a_slash(world: Any) -> None:
    client = world.client()
    cloud(client)
    (host,) = client.hosts.list()
    assert (host.name, host.elastic) == ("eu-1a/t3.small", True)
    assert client.hosts.get("eu-1a/t3.small").id == host.id
    assert host.maintenance().state == "maintenance"


def test_an_image_is_copied_described_mapped_and_removed(furnished: Any) -> None:
    client = furnished.client()
    image = client.images.get("tiny")
    assert (image.format, image.size_bytes, image.state) == ("raw", 4096, "available")
    assert len(image.sha256) == 64
    cloud(client)
    assert image.map({"cloud": "ami-1"}).sites == {"cloud": "ami-1"}
    (there,) = client.images.get("tiny").realisations
    assert (there.site, there.state, there.ref, there.bytes) == ("cloud", "available", "ami-1", None)
    assert image.map({}).sites == {}
    assert image.realisations == []
    image.delete()
    assert list(client.images.list()) == []


def test_an_image_has_versions_of_which_its_name_means_the_newest(furnished: Any) -> None:
    client = furnished.client()
    path = furnished.broker.settings.data_dir / "tiny.raw"
    with pytest.raises(isthmus.Conflict, match="tiny@1 is the same image already") as caught:
        client.images.create("tiny", str(path), format="raw")
    assert caught.value.code == "image_exists"
    path.write_bytes(b"1" * 4096)
    newer = client.images.create("tiny", str(path), format="raw", login_user="ada", min_disk_gb=1)
    assert (newer.family, newer.version, newer.name, newer.project) == ("tiny", 2, "tiny@2", None)
    assert (newer.visibility, newer.login_user, newer.min_disk_gb) == ("shared", "ada", 1)
    assert [image.version for image in client.images.list()] == [1, 2]
    assert client.vms.create("web", "tiny", "small").image == "tiny@2"
    assert newer.deprecate().deprecated_at is not None
    assert client.vms.create("old", "tiny", "small").image == "tiny"
    assert client.images.get("tiny@2").deprecate(False).deprecated_at is None
    assert client.images.get("tiny").id == newer.id
    assert furnished.ask("PATCH", "/v1/images/tiny", {}).status_code == 400


def test_a_private_image_is_not_there_for_others(furnished: Any) -> None:
    client = furnished.client()
    path = furnished.broker.settings.data_dir / "own.raw"
    path.write_bytes(b"2" * 4096)
    own = client.images.create("own", str(path), format="raw", project="other")
    assert (own.project, own.visibility) == ("other", "private")
    member, stranger = furnished.client("member"), furnished.client("stranger")
    assert [image.name for image in member.images.list()] == ["tiny"]
    assert [image.name for image in stranger.images.list()] == ["own", "tiny"]
    for ref in ("own", own.id, "own@1"):
        unseen = furnished.ask("GET", f"/v1/images/{ref}", role="member")
        unknown = furnished.ask("GET", "/v1/images/none", role="member")
        assert unseen.json()["error"]["code"] == unknown.json()["error"]["code"] == "image_not_found"
        assert unseen.json()["error"]["hint"] == unknown.json()["error"]["hint"]
    with pytest.raises(isthmus.NotFound):
        member.vms.create("web", "own", "small")
    assert stranger.vms.create("web", "own", "small").image == "own"


def test_an_image_in_use_stays(furnished: Any) -> None:
    client = furnished.client()
    client.vms.create("web", "tiny", "small")
    with pytest.raises(isthmus.Conflict) as caught:
        client.images.delete("tiny")
    assert caught.value.code == "in_use"


def test_a_network_has_a_subnet_per_site_and_counts_its_leases(furnished: Any) -> None:
    client = furnished.client()
    network = client.networks.get("lan")
    (subnet,) = network.subnets
    assert (subnet.site, subnet.cidr, subnet.gateway, subnet.leased) == (
        "campus",
        "10.0.1.0/24",
        "10.0.1.1",
        0,
    )
    vm = client.vms.create("web", "tiny", "small").wait_until("running", 30, poll=0.2)
    assert network.refresh().subnets[0].leased == 1
    with pytest.raises(isthmus.Conflict) as caught:
        network.remove_subnet("campus")
    assert caught.value.code == "in_use"
    vm.delete().wait(30, poll=0.2)
    client.networks.create("lab", "10.7.0.0/16").delete()


def test_a_private_network_is_not_there_for_others(furnished: Any) -> None:
    client = furnished.client()
    lan = client.networks.get("lan")
    assert (lan.project, lan.visibility) == (None, "shared")
    # The prefix of the shared one, at another site; and its name, which is that of the project's own there.
    client.sites.create("annex", "simulated", options={"hosts": 1})
    own = client.networks.create("own", lan.cidr, project="other")
    subnet = own.add_subnet("annex", "10.0.1.0/24")
    twin = client.networks.create("lan", "10.9.0.0/16", project="other")
    assert (own.project, own.visibility) == ("other", "private")
    member, stranger = furnished.client("member"), furnished.client("stranger")
    assert [network.id for network in member.networks.list()] == [lan.id]
    assert [network.id for network in stranger.networks.list()] == [lan.id, twin.id, own.id]
    assert stranger.networks.get("lan").id == twin.id
    assert member.networks.get("lan").id == lan.id
    client.gateways.create("gate", site="annex", network=own.id, endpoint="203.0.113.7:51820")
    assert list(member.gateways.list()) == []
    assert [gateway.name for gateway in stranger.gateways.list()] == ["gate"]
    for path in (f"networks/{own.id}", "networks/own", "gateways/gate", f"labels/subnet/{subnet.id}"):
        unseen = furnished.ask("GET", f"/v1/{path}", role="member")
        unknown = furnished.ask("GET", f"/v1/{path.rpartition('/')[0]}/none", role="member")
        assert unseen.status_code == unknown.status_code == 404
        assert unseen.json()["error"]["code"] == unknown.json()["error"]["code"]
        assert unseen.json()["error"]["hint"] == unknown.json()["error"]["hint"]
    with pytest.raises(isthmus.NotFound):
        member.vms.create("web", "tiny", "small", networks=[own.id])
    vm = stranger.vms.create("web", "tiny", "small", networks=["own"]).wait_until("running", 30, poll=0.2)
    same = member.vms.create("web", "tiny", "small").wait_until("running", 30, poll=0.2)
    assert (vm.site, vm.address) == ("annex", "10.0.1.2")
    assert (same.site, same.address) == ("campus", "10.0.1.2")
    told = {event.target for event in member.events.list()}
    assert not told & {own.id, subnet.id, twin.id}


def test_a_network_of_equal_prefix_is_refused_where_the_hosts_route_both(furnished: Any) -> None:
    client = furnished.client()
    own = client.networks.create("own", "10.0.0.0/16", project="other", visibility="shared")
    assert own.visibility == "shared"
    with pytest.raises(isthmus.Conflict, match="hosts of site campus have one routing table") as caught:
        own.add_subnet("campus", "10.0.1.0/24")
    assert caught.value.code == "overlap"
    with pytest.raises(isthmus.InvalidRequest, match="private network needs the project"):
        client.networks.create("nobodys", "10.1.0.0/16", visibility="private")
    with pytest.raises(isthmus.Forbidden):
        furnished.client("stranger").networks.create("mine", "10.1.0.0/16")


def test_reserved_addresses_are_kept_from_vms(furnished: Any) -> None:
    client = furnished.client()
    client.networks.get("lan").remove_subnet("campus")
    subnet = client.networks.add_subnet(
        "lan", "campus", "10.0.2.0/24", reserved=["10.0.2.2-10.0.2.50", "10.0.2.60"]
    )
    assert subnet.reserved == ["10.0.2.2-10.0.2.50", "10.0.2.60"]
    vm = client.vms.create("web", "tiny", "small").wait_until("running", 30, poll=0.2)
    assert int((vm.address or "").rsplit(".", 1)[1]) > 50


def test_a_policy_is_checked_applied_shown_and_versioned(furnished: Any) -> None:
    client = furnished.client()
    checked = client.policy.check(POLICY, "burst.yaml")
    assert [(p.file, p.line) for p in checked.problems] == [("burst.yaml", 5)]
    with pytest.raises(isthmus.InvalidRequest) as caught:
        client.policy.apply(POLICY, "burst.yaml")
    assert caught.value.code == "invalid_policy"
    assert caught.value.details["problems"][0]["line"] == 5
    cloud(client)
    assert client.policy.check(POLICY).ok
    policy = client.policy.apply(POLICY)
    assert (policy.version, policy.burst, policy.applied_by) == (1, "closed", "admin")
    assert [clause.text for clause in policy.open] == ["local.cpu_used > 0.9"]
    assert policy.open[0].holds is False
    assert client.policy.apply(POLICY + "# again\n").version == 2
    assert [version.version for version in client.policy.versions()] == [2, 1]
    assert client.policy.get().text.endswith("# again\n")
    assert client.status().burst == "closed"


def test_a_project_has_its_quota_and_account(world: Any) -> None:
    client = world.client()
    project = client.projects.create("lab", vms=3, vcpus=6)
    assert (project.quota.vms, project.quota.vcpus, project.quota.mem_mb) == (3, 6, None)
    assert len(project.account) == 12
    assert {found.name for found in client.projects.list()} == {"default", "other", "lab"}
    project.delete()
    with pytest.raises(isthmus.NotFound):
        client.projects.get("lab")
    assert [found.name for found in world.client("member").projects.list()] == ["default"]


def test_tokens_and_access_keys_are_made_and_revoked(world: Any) -> None:
    client = world.client()
    made = client.tokens.create("ci", role="reader", expires_in_s=3600)
    assert made.token.expires_at is not None
    assert "ci" in {token.name for token in client.tokens.list()}
    made.token.delete()
    assert "ci" not in {token.name for token in client.tokens.list()}
    key = client.accesskeys.create(role="reader")
    assert [found.id for found in client.accesskeys.list()] == [key.access_key.id]
    key.access_key.delete()
    assert list(client.accesskeys.list()) == []


def test_the_status_counts_and_says_who_asks(furnished: Any) -> None:
    status = furnished.client("reader").status()
    assert (status.project, status.role) == ("default", "reader")
    assert (status.sites, status.hosts, status.vms, status.queue, status.burst) == (1, 2, 0, 0, "off")
    assert status.version == isthmus.__version__


def test_labels_are_set_taken_away_and_sought(furnished: Any) -> None:
    client = furnished.client()
    subnet = client.networks.get("lan").subnets[0]
    assert client.labels.update("network", "lan", {"team": "web", "old": "x"}) == {"old": "x", "team": "web"}
    assert client.labels.update("network", "lan", {"old": None}) == {"team": "web"}
    assert client.labels.update("subnet", subnet.id, {"rack": "7"}) == {"rack": "7"}
    (network,) = client.networks.list(labels={"team": "web"})
    assert (network.labels, network.subnets[0].labels) == ({"team": "web"}, {"rack": "7"})
    assert list(client.networks.list(labels={"team": "db"})) == []
    made = client.flavors.create("odd", vcpus=1, mem_mb=64, disk_gb=1, labels={"a": "b"})
    assert client.labels.of("flavor", made.id) == made.refresh().labels == {"a": "b"}
    with pytest.raises(isthmus.InvalidRequest, match="reserved"):
        client.labels.update("flavor", "odd", {"aws:x": "1"})
    with pytest.raises(isthmus.Forbidden):
        furnished.client("member").labels.update("flavor", "odd", {"a": "c"})
    with pytest.raises(isthmus.NotFound):
        client.labels.of("vm", "nowhere")
