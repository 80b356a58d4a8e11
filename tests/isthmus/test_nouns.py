"""Each call of each noun goes to its route, with its body; and each noun of the table has the same verbs."""

from __future__ import annotations

import types
from datetime import UTC, datetime, timedelta
from enum import Enum
from importlib import import_module
from typing import Any, Union, get_args, get_origin

import httpx2
import pytest
from pydantic import BaseModel

import isthmus
from isthmus import nouns, schema
from isthmus.client._resource import Resource
from isthmus.nouns import NOUNS, Noun

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
SITE = schema.Site(id="site-1", name="campus", kind="kvm", state="up", created_at=NOW)
HOST = schema.Host(id="host-1", name="a", site="campus", state="up")
FLAVOR = schema.Flavor(name="small", vcpus=1, mem_mb=256, disk_gb=1)
IMAGE = schema.Image(
    id="img-1", name="tiny", state="available", format="qcow2", size_bytes=1, sha256="0", created_at=NOW
)
KEYPAIR = schema.KeyPair(
    name="me", project="default", public_key="ssh-ed25519 A", fingerprint="f", created_at=NOW
)
SUBNET = schema.Subnet(
    id="sub-1", network="lan", site="campus", cidr="10.0.1.0/24", mode="nat", gateway="10.0.1.1", mtu=1420
)
NETWORK = schema.Network(id="net-1", name="lan", cidr="10.0.0.0/16", subnets=[SUBNET], created_at=NOW)
GATEWAY = schema.Gateway(
    id="gw-1",
    name="gw",
    site="campus",
    network="lan",
    endpoint="203.0.113.2:51820",
    state="new",
    created_at=NOW,
)
RESERVATION = schema.Reservation(
    id="res-1",
    name="exam",
    project="default",
    state=schema.ReservationState.SCHEDULED,
    flavor="small",
    vcpus=1,
    mem_mb=256,
    disk_gb=1,
    count=2,
    start_at=NOW,
    end_at=NOW + timedelta(hours=1),
    hosts={"campus/a": 2},
    created_at=NOW,
)
PLAN = schema.MigrationPlan(
    goal="pack", moves=[schema.Move(vm="web", source="campus/a", target="campus/b", cost_s=2)]
)
PROJECT = schema.Project(id="prj-1", name="lab", account="123456789012", created_at=NOW)
TOKEN = schema.Token(id="tok-1", name="ci", project="lab", role=schema.Role.MEMBER, created_at=NOW)
KEY = schema.AccessKey(id="AKIA1", project="lab", role=schema.Role.MEMBER, created_at=NOW)
GRANT = schema.Grant(project="lab", role="reader")
CAN = schema.Can(
    allowed=False,
    who="token ci",
    action="vm.delete",
    what="vm web",
    project="lab",
    scope="project",
    roles=["member", "admin"],
    grants=[GRANT],
    reason="vm.delete needs the role member or admin in project lab, and token ci is reader in project lab",
)
PERMISSION = schema.Permission(
    name="vm.get", scope="project", roles=["reader", "member", "admin"], description="See a VM."
)
PEER = schema.Peer(id="peer-1", gateway="gw", vm="web", state="enrolled", address="10.0.2.4")
LABELS = schema.LabelSet(labels={"a": "b"})
POLICY = schema.Policy(version=1, text="version: 1", applied_by="admin", applied_at=NOW, burst="closed")
EVENT = schema.Event(seq=7, time=NOW, kind="vm.placed", target="vm-1", message="placed on a")
STATUS = schema.Status(
    version="0.1.0",
    broker_id="brk-1",
    project="default",
    role="admin",
    sites=1,
    hosts=2,
    vms=3,
    queue=0,
    burst="off",
)

CALLS: list[tuple[str, Any, str, str, Any, Any]] = [
    # name, call, method, path, body, answer
    ("status", lambda c: c.status(), "GET", "/v1/status", None, STATUS),
    (
        "site create",
        lambda c: c.sites.create(
            "campus", "kvm", options={"hosts": ["qemu:///system"]}, credentials={"k": "s"}
        ),
        "POST",
        "/v1/sites",
        {
            "name": "campus",
            "kind": "kvm",
            "options": {"hosts": ["qemu:///system"]},
            "credentials": {"k": "s"},
        },
        SITE,
    ),
    ("site get", lambda c: c.sites.get("campus"), "GET", "/v1/sites/campus", None, SITE),
    ("site list", lambda c: list(c.sites.list()), "GET", "/v1/sites", None, [SITE]),
    ("site look", lambda c: c.sites.look("campus"), "POST", "/v1/sites/campus/refresh", None, SITE),
    ("site delete", lambda c: c.sites.delete("campus"), "DELETE", "/v1/sites/campus", None, None),
    ("host get", lambda c: c.hosts.get("a"), "GET", "/v1/hosts/a", None, HOST),
    ("host list", lambda c: list(c.hosts.list()), "GET", "/v1/hosts", None, [HOST]),
    (
        "host maintenance",
        lambda c: c.hosts.maintenance("a"),
        "PATCH",
        "/v1/hosts/a",
        {"maintenance": True},
        HOST,
    ),
    (
        "host back",
        lambda c: c.hosts.maintenance("a", False),
        "PATCH",
        "/v1/hosts/a",
        {"maintenance": False},
        HOST,
    ),
    (
        "flavor create",
        lambda c: c.flavors.create("small", vcpus=1, mem_mb=256, disk_gb=1),
        "POST",
        "/v1/flavors",
        {
            "name": "small",
            "vcpus": 1,
            "mem_mb": 256,
            "disk_gb": 1,
            "gpus": 0,
            "dedicated_cpus": False,
            "hugepages": False,
        },
        FLAVOR,
    ),
    ("flavor get", lambda c: c.flavors.get("small"), "GET", "/v1/flavors/small", None, FLAVOR),
    ("flavor list", lambda c: list(c.flavors.list()), "GET", "/v1/flavors", None, [FLAVOR]),
    ("flavor delete", lambda c: c.flavors.delete("small"), "DELETE", "/v1/flavors/small", None, None),
    (
        "image create",
        lambda c: c.images.create("tiny", "/srv/tiny.qcow2", kernel="/srv/vmlinux"),
        "POST",
        "/v1/images",
        {"name": "tiny", "path": "/srv/tiny.qcow2", "kernel": "/srv/vmlinux"},
        IMAGE,
    ),
    ("image get", lambda c: c.images.get("tiny"), "GET", "/v1/images/tiny", None, IMAGE),
    ("image list", lambda c: list(c.images.list()), "GET", "/v1/images", None, [IMAGE]),
    (
        "image map",
        lambda c: c.images.map("tiny", {"aws": "ami-1"}),
        "PATCH",
        "/v1/images/tiny",
        {"sites": {"aws": "ami-1"}},
        IMAGE,
    ),
    ("image unmap", lambda c: c.images.map("tiny", {}), "PATCH", "/v1/images/tiny", {"sites": {}}, IMAGE),
    (
        "image version of a project",
        lambda c: c.images.create(
            "tiny", "/srv/t.raw", min_disk_gb=4, login_user="ada", project="lab", visibility="shared"
        ),
        "POST",
        "/v1/images",
        {"name": "tiny", "path": "/srv/t.raw", "min_disk_gb": 4, "login_user": "ada"}
        | {"project": "lab", "visibility": "shared"},
        IMAGE,
    ),
    (
        "image deprecate",
        lambda c: c.images.deprecate("tiny@2"),
        "PATCH",
        "/v1/images/tiny%402",
        {"deprecated": True},
        IMAGE,
    ),
    ("image delete", lambda c: c.images.delete("tiny"), "DELETE", "/v1/images/tiny", None, None),
    (
        "keypair create",
        lambda c: c.keypairs.create("me", "ssh-ed25519 A"),
        "POST",
        "/v1/keypairs",
        {"name": "me", "public_key": "ssh-ed25519 A"},
        KEYPAIR,
    ),
    (
        "reservation create",
        lambda c: c.reservations.create("exam", "small", RESERVATION.end_at, count=2),
        "POST",
        "/v1/reservations",
        {"name": "exam", "flavor": "small", "count": 2, "end_at": "2026-11-20T13:00:00Z"},
        RESERVATION,
    ),
    (
        "reservation get",
        lambda c: c.reservations.get("exam"),
        "GET",
        "/v1/reservations/exam",
        None,
        RESERVATION,
    ),
    (
        "reservation list",
        lambda c: list(c.reservations.list()),
        "GET",
        "/v1/reservations",
        None,
        [RESERVATION],
    ),
    (
        "reservation delete",
        lambda c: c.reservations.delete("exam"),
        "DELETE",
        "/v1/reservations/exam",
        None,
        None,
    ),
    (
        "migration rebalance",
        lambda c: c.migrations.rebalance("pack", apply=True, max_moves=3),
        "POST",
        "/v1/migrations",
        {"goal": "pack", "apply": True, "max_moves": 3},
        PLAN,
    ),
    (
        "migration drain",
        lambda c: c.migrations.drain("a"),
        "POST",
        "/v1/migrations",
        {"goal": "drain", "host": "a", "apply": True},
        PLAN,
    ),
    (
        "usage list",
        lambda c: list(c.usage.list()),
        "GET",
        "/v1/usage",
        None,
        [
            schema.Usage(
                project="lab",
                site="aws",
                elastic=True,
                since=NOW,
                until=NOW,
                vms=1,
                vm_hours=2,
                vcpu_hours=4,
                gib_hours=8,
                cost=0.2,
                unpriced_hours=0,
            )
        ],
    ),
    (
        "expression check",
        lambda c: c.expressions.check("FREE_CPU", kind="rank", dialect="opennebula"),
        "POST",
        "/v1/expressions",
        {"text": "FREE_CPU", "kind": "rank", "dialect": "opennebula"},
        schema.Expression(text="cpu_free * 100"),
    ),
    ("keypair get", lambda c: c.keypairs.get("me"), "GET", "/v1/keypairs/me", None, KEYPAIR),
    ("keypair list", lambda c: list(c.keypairs.list()), "GET", "/v1/keypairs", None, [KEYPAIR]),
    ("keypair delete", lambda c: c.keypairs.delete("me"), "DELETE", "/v1/keypairs/me", None, None),
    (
        "network create",
        lambda c: c.networks.create("lan", "10.0.0.0/16"),
        "POST",
        "/v1/networks",
        {"name": "lan", "cidr": "10.0.0.0/16"},
        NETWORK,
    ),
    (
        "network of a project",
        lambda c: c.networks.create("lan", "10.0.0.0/16", project="lab", visibility="shared"),
        "POST",
        "/v1/networks",
        {"name": "lan", "cidr": "10.0.0.0/16", "project": "lab", "visibility": "shared"},
        NETWORK,
    ),
    ("network get", lambda c: c.networks.get("lan"), "GET", "/v1/networks/lan", None, NETWORK),
    ("network list", lambda c: list(c.networks.list()), "GET", "/v1/networks", None, [NETWORK]),
    ("network delete", lambda c: c.networks.delete("lan"), "DELETE", "/v1/networks/lan", None, None),
    (
        "network add subnet",
        lambda c: c.networks.add_subnet(
            "lan", "campus", "10.0.1.0/24", mode="bridge", bridge="br0", reserved=["10.0.1.5"]
        ),
        "POST",
        "/v1/networks/lan/subnets",
        {
            "site": "campus",
            "cidr": "10.0.1.0/24",
            "mode": "bridge",
            "bridge": "br0",
            "reserved": ["10.0.1.5"],
        },
        SUBNET,
    ),
    (
        "network remove subnet",
        lambda c: c.networks.remove_subnet("lan", "campus"),
        "DELETE",
        "/v1/networks/lan/subnets/campus",
        None,
        None,
    ),
    (
        "gateway create",
        lambda c: c.gateways.create("gw", site="campus", network="lan", endpoint="203.0.113.2:51820"),
        "POST",
        "/v1/gateways",
        {"name": "gw", "site": "campus", "network": "lan", "endpoint": "203.0.113.2:51820"},
        schema.GatewayCreated(gateway=GATEWAY, token="ist_gw"),
    ),
    ("gateway get", lambda c: c.gateways.get("gw"), "GET", "/v1/gateways/gw", None, GATEWAY),
    ("gateway list", lambda c: list(c.gateways.list()), "GET", "/v1/gateways", None, [GATEWAY]),
    (
        "gateway renew_token",
        lambda c: c.gateways.renew_token("gw"),
        "POST",
        "/v1/gateways/gw/token",
        None,
        schema.GatewayCreated(gateway=GATEWAY, token="ist_new"),
    ),
    ("gateway delete", lambda c: c.gateways.delete("gw"), "DELETE", "/v1/gateways/gw", None, None),
    ("peer list", lambda c: list(c.peers.list(gateway="gw")), "GET", "/v1/peers", None, [PEER]),
    ("policy get", lambda c: c.policy.get(), "GET", "/v1/policy", None, POLICY),
    (
        "policy apply",
        lambda c: c.policy.apply("version: 1", "p.yaml"),
        "PUT",
        "/v1/policy",
        {"text": "version: 1", "name": "p.yaml"},
        POLICY,
    ),
    (
        "policy rehearse",
        lambda c: c.policy.rehearse("version: 1"),
        "POST",
        "/v1/policy/rehearse",
        {"text": "version: 1"},
        schema.Rehearsal(burst="off"),
    ),
    (
        "policy check",
        lambda c: c.policy.check("version: 1"),
        "POST",
        "/v1/policy/check",
        {"text": "version: 1"},
        schema.PolicyCheck(ok=True),
    ),
    ("policy versions", lambda c: list(c.policy.versions()), "GET", "/v1/policy/versions", None, [POLICY]),
    ("event list", lambda c: list(c.events.list()), "GET", "/v1/events", None, [EVENT]),
    (
        "label of",
        lambda c: c.labels.of("vm", "web"),
        "GET",
        "/v1/labels/vm/web",
        None,
        LABELS,
    ),
    (
        "label update",
        lambda c: c.labels.update("subnet", "sub-1", {"a": "b", "old": None}),
        "PATCH",
        "/v1/labels/subnet/sub-1",
        {"labels": {"a": "b", "old": None}},
        LABELS,
    ),
    (
        "project create",
        lambda c: c.projects.create("lab", vms=5),
        "POST",
        "/v1/projects",
        {"name": "lab", "quota": {"vms": 5}},
        PROJECT,
    ),
    ("project get", lambda c: c.projects.get("lab"), "GET", "/v1/projects/lab", None, PROJECT),
    ("project list", lambda c: list(c.projects.list()), "GET", "/v1/projects", None, [PROJECT]),
    ("project delete", lambda c: c.projects.delete("lab"), "DELETE", "/v1/projects/lab", None, None),
    (
        "token create",
        lambda c: c.tokens.create("ci", role="reader", expires_in_s=60),
        "POST",
        "/v1/tokens",
        {"name": "ci", "role": "reader", "expires_in_s": 60},
        schema.TokenCreated(token=TOKEN, secret="ist_x"),
    ),
    ("token list", lambda c: list(c.tokens.list()), "GET", "/v1/tokens", None, [TOKEN]),
    ("token delete", lambda c: c.tokens.delete("tok-1"), "DELETE", "/v1/tokens/tok-1", None, None),
    (
        "accesskey create",
        lambda c: c.accesskeys.create(),
        "POST",
        "/v1/accesskeys",
        {},
        schema.AccessKeyCreated(access_key=KEY, secret="s"),
    ),
    ("accesskey list", lambda c: list(c.accesskeys.list()), "GET", "/v1/accesskeys", None, [KEY]),
    (
        "auth can",
        lambda c: c.auth.can("vm.delete", "vm:web", who="ci"),
        "GET",
        "/v1/auth/can",
        None,
        CAN,
    ),
    (
        "auth permissions",
        lambda c: list(c.auth.permissions("reader")),
        "GET",
        "/v1/auth/permissions",
        None,
        [PERMISSION],
    ),
    (
        "accesskey delete",
        lambda c: c.accesskeys.delete("AKIA1"),
        "DELETE",
        "/v1/accesskeys/AKIA1",
        None,
        None,
    ),
]


@pytest.mark.parametrize(
    ("name", "call", "method", "path", "body", "answer"), CALLS, ids=[c[0] for c in CALLS]
)
def test_a_call_goes_to_its_route(
    client: Any, broker: Any, name: str, call: Any, method: str, path: str, body: Any, answer: Any
) -> None:
    broker.on(method, path, answer)
    result = call(client)
    asked = broker.asked[0]
    assert (asked.method, asked.path, asked.body) == (method, path, body)
    if isinstance(answer, list):
        assert [item.model_dump() for item in result] == [item.model_dump() for item in answer]
    elif answer is None:
        assert result is None
    elif isinstance(answer, schema.LabelSet):
        assert result == answer.labels
    else:
        assert result.model_dump() == answer.model_dump()


def test_what_is_created_with_a_secret_is_bound_too(client: Any, broker: Any) -> None:
    broker.on("POST", "/v1/gateways", schema.GatewayCreated(gateway=GATEWAY, token="ist_gw"))
    broker.on("DELETE", "/v1/gateways/gw-1", None)
    created = client.gateways.create("gw", site="campus", network="lan", endpoint="203.0.113.2:51820")
    created.gateway.delete()
    assert broker.asked[-1].path == "/v1/gateways/gw-1"


@pytest.mark.parametrize(
    ("collection", "answer", "ref"),
    [
        ("sites", SITE, "site-1"),
        ("flavors", FLAVOR, "small"),
        ("images", IMAGE, "img-1"),
        ("keypairs", KEYPAIR, "me"),
        ("reservations", RESERVATION, "res-1"),
        ("networks", NETWORK, "net-1"),
        ("gateways", GATEWAY, "gw-1"),
        ("projects", PROJECT, "prj-1"),
    ],
)
def test_each_thing_refreshes_and_deletes_itself(
    client: Any, broker: Any, collection: str, answer: Any, ref: str
) -> None:
    broker.on("GET", f"/v1/{collection}", [answer])
    broker.on("GET", f"/v1/{collection}/{ref}", answer)
    broker.on("DELETE", f"/v1/{collection}/{ref}", None)
    (thing,) = getattr(client, collection).list()
    assert thing.refresh() is thing
    thing.delete()
    assert broker.asked[-1].method == "DELETE"


# -- what is the same for every noun of the table -----------------------------------------------------------------------


def sample(kind: Any) -> Any:
    """The least that a model of the wire may be."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        fields = {n: f for n, f in kind.model_fields.items() if f.is_required()}
        return kind.model_validate({name: sample(field.annotation) for name, field in fields.items()})
    if isinstance(kind, type) and issubclass(kind, Enum):
        return next(iter(kind))
    if get_origin(kind) in (Union, types.UnionType):
        return sample(get_args(kind)[0])
    known = {str: "x-1", int: 1, float: 1.0, bool: False, datetime: NOW, list: [], dict: {}}
    return known[get_origin(kind) or kind]


def model_of(row: Noun[Any]) -> Any:
    """The kind of thing that a noun's collection answers with."""
    return getattr(import_module(f"isthmus.client.{row.name}"), row.calls)._model


def with_call(name: str) -> pytest.MarkDecorator:
    """The nouns whose collection has that call."""
    rows = [row for row in NOUNS if row.name != "policy"]  # there is one policy, and it has no name
    has = [r for r in rows if hasattr(getattr(import_module(f"isthmus.client.{r.name}"), r.calls), name)]
    assert len(has) > 8
    return pytest.mark.parametrize("row", has, ids=lambda row: row.name)


@pytest.mark.parametrize("row", NOUNS, ids=lambda row: row.name)
def test_a_row_of_the_table_is_what_type_checkers_read(client: Any, row: Noun[Any]) -> None:
    assert nouns.Nouns.__annotations__[row.plural] == f"Noun[{row.calls}]"
    collection = getattr(client, row.plural)
    assert type(collection).__name__ == row.calls
    assert getattr(client, row.plural) is collection
    assert getattr(isthmus.Client, row.plural) is row
    assert collection._path == f"/v1/{row.plural}"
    assert all(getattr(isthmus, name).__name__ == name for name in row.exports)


def test_the_rows_of_the_table_do_not_collide() -> None:
    for values in ([row.name for row in NOUNS], [row.command for row in NOUNS]):
        assert len(values) == len(set(values))
    exported = [name for row in NOUNS for name in row.exports]
    assert len(exported) == len(set(exported))


@with_call("list")
def test_a_list_of_any_noun_goes_through_all_its_pages(client: Any, broker: Any, row: Noun[Any]) -> None:
    item = sample(model_of(row))
    pages = [{"items": [item.model_dump(mode="json")], "next": following} for following in ("t", None)]
    broker.on("GET", f"/v1/{row.plural}", *(httpx2.Response(200, json=page) for page in pages))
    query = {"after": 1} if row.name == "event" else {}  # without, only the newest are shown
    found = list(getattr(client, row.plural).list(**query))
    assert [thing.model_dump() for thing in found] == [item.model_dump()] * 2
    assert [dict(asked.query).get("page") for asked in broker.asked] == [None, "t"]


@with_call("get")
def test_one_of_any_noun_is_got_by_its_reference(client: Any, broker: Any, row: Noun[Any]) -> None:
    item = sample(model_of(row))
    broker.on("GET", f"/v1/{row.plural}/a%20b", item)
    assert getattr(client, row.plural).get("a b").model_dump() == item.model_dump()
    with pytest.raises(isthmus.InvalidRequest, match="not a name or id"):
        getattr(client, row.plural).get("")


@with_call("delete")
def test_one_of_any_noun_is_deleted_by_its_reference(client: Any, broker: Any, row: Noun[Any]) -> None:
    answer = None
    if row.name == "vm":  # which takes its time
        answer = schema.VMOperation(vm=sample(schema.VM), operation=sample(schema.Operation))
    broker.on("DELETE", f"/v1/{row.plural}/it", answer)
    getattr(client, row.plural).delete("it")
    assert [(asked.method, asked.path) for asked in broker.asked] == [("DELETE", f"/v1/{row.plural}/it")]


@with_call("get")
def test_a_thing_of_any_noun_reads_itself_again_and_deletes_itself(
    client: Any, broker: Any, row: Noun[Any]
) -> None:
    item = sample(model_of(row))
    ref = getattr(item, "id", None) or item.name
    broker.on("GET", f"/v1/{row.plural}/{ref}", item).on("DELETE", f"/v1/{row.plural}/{ref}", None)
    thing = getattr(client, row.plural).get(ref)
    assert thing.refresh() is thing
    if isinstance(thing, Resource):
        thing.delete()
        assert broker.asked[-1].method == "DELETE"


# -- what is one noun's own ----------------------------------------------------------------------------------------------


def test_a_network_knows_of_a_subnet_added_to_it(client: Any, broker: Any) -> None:
    empty = NETWORK.model_copy(update={"subnets": []})
    broker.on("GET", "/v1/networks/lan", empty).on("GET", "/v1/networks/net-1", NETWORK, empty)
    broker.on("POST", "/v1/networks/net-1/subnets", SUBNET).on(
        "DELETE", "/v1/networks/net-1/subnets/campus", None
    )
    network = client.networks.get("lan")
    network.add_subnet("campus", "10.0.1.0/24")
    assert [subnet.site for subnet in network.subnets] == ["campus"]
    network.remove_subnet("campus")
    assert network.subnets == []


def test_labels_are_asked_of_what_carries_any(client: Any, broker: Any) -> None:
    with pytest.raises(isthmus.InvalidRequest, match="carries no labels"):
        client.labels.of("token", "x")
    assert broker.asked == []


def test_events_are_followed_from_now_on(client: Any, broker: Any) -> None:
    later = [EVENT.model_copy(update={"seq": seq}) for seq in (8, 9, 10)]
    broker.on("GET", "/v1/events", [EVENT], [], later[:2], later[2:])
    stream = client.events.follow(kind="vm.placed")
    assert [next(stream).seq for _ in range(3)] == [8, 9, 10]
    assert [dict(asked.query).get("after") for asked in broker.asked] == [None, "7", "7", "9"]


def test_events_are_followed_over_a_restart_of_the_broker(client: Any, broker: Any, time: Any) -> None:
    away = [httpx2.ConnectError("refused")] * 12
    broker.on("GET", "/v1/events", [EVENT], *away, [EVENT.model_copy(update={"seq": 8})])
    assert next(client.events.follow(after=6)).seq == 7
    stream = client.events.follow(after=7)
    assert next(stream).seq == 8
    assert time.now > 1


def test_the_newest_events_are_one_page(client: Any, broker: Any) -> None:
    broker.on("GET", "/v1/events", [EVENT])
    list(client.events.list(limit=5, target="vm-1"))
    assert broker.asked[0].query == [("target", "vm-1"), ("limit", "5")]


def test_a_client_closes_at_the_end_of_its_block(broker: Any) -> None:
    with isthmus.Client("http://b", "t", transport=httpx2.MockTransport(broker), environ={}) as client:
        broker.on("GET", "/v1/status", STATUS)
        client.status()
    with pytest.raises(RuntimeError):
        client.status()
    assert repr(client) == "Client(url='http://b')"
