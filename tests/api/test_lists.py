"""A list costs as many statements with a thousand rows as with ten: nothing is looked up row by row, and nothing that
is over is read. What a Describe call says exactly costs as many rows, too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import JSON, Boolean, Enum, event, insert
from starlette.testclient import TestClient

from api.ec2.app import ACTIONS
from api.ec2.call import Call
from api.ec2.protocol import service_model
from api.native import create_app
from broker import project, token
from broker.actor import SYSTEM, Actor
from broker.broker import Broker
from broker.sealing import Sealer
from broker.settings import Settings
from broker.store import (
    AccessKeyRow,
    AddressRow,
    EventRow,
    FlavorRow,
    GatewayRow,
    HostRow,
    ImageRow,
    KeyPairRow,
    LabelRow,
    NetworkRow,
    NICRow,
    OperationRow,
    PeerRow,
    PolicyRow,
    ProjectRow,
    RealisationRow,
    ReservationRow,
    SiteRow,
    Store,
    SubnetRow,
    TokenRow,
    UsageRow,
    VMRow,
)
from broker.store.base import UtcDateTime
from isthmus.nouns import NOUNS
from providers.simulated import SimulatedProvider

NOW = datetime(2030, 1, 15, tzinfo=UTC)
FEW, MANY = 10, 1000
PATHS = create_app(None).openapi()["paths"]  # type: ignore[arg-type]  # the document needs no broker

Filler = Callable[[str, int], list[tuple[type, dict[str, Any]]]]
"""(the caller's project, number) -> one more of a noun, with what it stands on."""


def vm(owner: str, n: int, **values: Any) -> tuple[type, dict[str, Any]]:
    asked = {
        "id": f"vm-{n:017x}",
        "name": f"vm-{n}",
        "project_id": owner,
        "image_id": f"img-{n:017x}",
        "state": "running",
    }
    return VMRow, asked | {
        "site_id": f"site-{n}",
        "host_id": f"host-{n}",
        "created_at": NOW + timedelta(seconds=n),
        "reservation": f"r-{n}",
        "labels": {"a": "b"},
    } | values


def over(owner: str, n: int) -> tuple[type, dict[str, Any]]:
    """A VM that is terminated, and shown no more."""
    past = {"state": "terminated", "terminated_at": NOW - timedelta(days=9), "id": f"vm-{n + (1 << 40):017x}"}
    return vm(owner, n, host_id=None, **past)


FILL: dict[str, Filler] = {
    "site": lambda owner, n: [(SiteRow, {"id": f"site-{n}", "name": f"s{n}", "kind": "simulated"})],
    "host": lambda owner, n: [(HostRow, {"id": f"host-{n}", "site_id": f"site-{n}", "elastic": False})],
    "flavor": lambda owner, n: [(FlavorRow, {"name": f"f{n}"})],
    "project": lambda owner, n: [(ProjectRow, {"id": f"prj-{n}", "name": f"p{n}"})],
    "image": lambda owner, n: [
        (ImageRow, {"id": f"img-{n:017x}", "visibility": "shared", "project_id": f"prj-{n}"}),
        (RealisationRow, {"image_id": f"img-{n:017x}", "site_id": f"site-{n}", "state": "available"}),
        (LabelRow, {"resource": f"img-{n:017x}", "noun": "image", "key": "n", "value": f"{n}"}),
    ],
    "network": lambda owner, n: [
        (
            NetworkRow,
            {"id": f"net-{n:017x}", "cidr": f"10.{n // 256}.{n % 256}.0/24", "visibility": "shared"},
        ),
        (
            SubnetRow,
            {"id": f"sub-{n:017x}", "network_id": f"net-{n:017x}", "site_id": f"site-{n}"}
            | {"cidr": f"10.{n // 256}.{n % 256}.0/24"},
        ),
    ],
    "vm": lambda owner, n: [
        vm(owner, n),
        over(owner, n),
        (NICRow, {"id": f"nic-{n}", "vm_id": f"vm-{n:017x}", "network_id": f"net-{n:017x}", "subnet_id": f"sub-{n:017x}"}),
        (AddressRow, {"nic_id": f"nic-{n}", "subnet_id": f"sub-{n:017x}"}),
    ],
    "reservation": lambda owner, n: [
        (ReservationRow, {"project_id": owner, "state": "scheduled", "slots": {f"host-{n}": 1}})
    ],
    "keypair": lambda owner, n: [
        (KeyPairRow, {"id": f"key-{n:017x}", "project_id": owner, "name": f"k{n}"}),
        (LabelRow, {"resource": f"key-{n:017x}", "noun": "keypair", "key": "n", "value": f"{n}"}),
    ],
    "gateway": lambda owner, n: [
        (GatewayRow, {"id": f"gw-{n}", "site_id": f"site-{n}", "network_id": f"net-{n:017x}"})
    ],
    "peer": lambda owner, n: [
        (PeerRow, {"gateway_id": f"gw-{n}", "vm_id": f"vm-{n:017x}", "network_id": f"net-{n:017x}", "state": "enrolled"})
    ],
    "policy": lambda owner, n: [(PolicyRow, {"version": n + 1})],
    "operation": lambda owner, n: [(OperationRow, {"project_id": owner, "target": f"vm-{n:017x}", "state": "done"})],
    "event": lambda owner, n: [(EventRow, {"seq": n + 1000, "project_id": owner})],
    "usage": lambda owner, n: [
        (UsageRow, {"project_id": f"prj-{n}", "project": f"p{n}", "started_at": NOW - timedelta(hours=1)})
    ],
    "token": lambda owner, n: [(TokenRow, {"project_id": owner, "role": "reader"})],
    "accesskey": lambda owner, n: [(AccessKeyRow, {"project_id": owner, "role": "reader"})],
}  # fmt: skip
"""Each noun that has a list, after those that it refers to."""

LISTS = [
    path
    for row in NOUNS
    for path in (f"/v1/{row.plural}", f"/v1/{row.plural}/versions")
    if "get" in PATHS.get(path, {})
    and any(one["name"] == "limit" for one in PATHS[path]["get"].get("parameters", ()))
]
DESCRIBES = sorted(name for name in ACTIONS if name.startswith("Describe"))
PAGED = {"DescribeInstances", "DescribeInstanceStatus"}
"""Describe calls whose pages are measured: of a thousand VMs the NICs come in two statements, not in one."""


def only(name: str, *values: str) -> dict[str, Any]:
    return {"Filters": [{"Name": name, "Values": list(values)}]}


def digits(n: int) -> str:
    return f"{n:017x}"


PAGE = {"MaxResults": 5}
NARROW: dict[str, list[dict[str, Any]]] = {
    "DescribeAddresses": [only("domain", "vpc")],
    "DescribeAvailabilityZones": [
        {"ZoneNames": ["s5"]},
        {"ZoneIds": ["site-5"]},
        only("zone-name", "s5"),
        only("zone-id", "site-5"),
    ],
    "DescribeImages": [
        {"ImageIds": [f"ami-{digits(5)}"]},
        only("image-id", f"ami-{digits(5)}"),
        only("name", "family-5"),
        only("tag:n", "5"),
        only("owner-id", "account-5"),
        {"Owners": ["account-5"]},
        PAGE,
        PAGE | only("name", "family-*"),
    ],
    "DescribeInstanceStatus": [
        {"InstanceIds": [f"i-{digits(5)}"]},
        PAGE,
        PAGE | only("instance-state-name", "running"),
    ],
    "DescribeInstances": [
        {"InstanceIds": [f"i-{digits(5)}"]},
        only("instance-id", f"i-{digits(5)}"),
        only("reservation-id", "r-5"),
        only("tag:Name", "vm-5"),
        PAGE,
        PAGE | only("instance-state-code", "16"),
    ],
    "DescribeInstanceTypeOfferings": [
        only("instance-type", "f5"),
        {"LocationType": "availability-zone"}
        | {"Filters": [*only("instance-type", "f5")["Filters"], *only("location", "s5")["Filters"]]},
        PAGE,
        PAGE | {"LocationType": "availability-zone-id"},
    ],
    "DescribeInstanceTypes": [{"InstanceTypes": ["f5"]}, only("instance-type", "f5"), PAGE],
    "DescribeKeyPairs": [
        {"KeyNames": ["k5"]},
        {"KeyPairIds": [f"key-{digits(5)}"]},
        {"KeyNames": ["k5"], "KeyPairIds": [f"key-{digits(5)}"]},
        only("key-name", "k5"),
        only("key-pair-id", f"key-{digits(5)}"),
        only("tag-key", "n") | {"KeyNames": ["k5"]},
        only("tag:n", "5"),
    ],
    "DescribeRegions": [{"RegionNames": ["here"]}, only("region-name", "here")],
    "DescribeSubnets": [
        {"SubnetIds": [f"subnet-{digits(5)}"]},
        only("subnet-id", f"subnet-{digits(5)}"),
        only("vpc-id", f"vpc-{digits(5)}"),
        only("availability-zone", "s5"),
        only("tag:Name", "name-5-s5"),
        PAGE,
    ],
    "DescribeTags": [
        only("resource-id", f"ami-{digits(5)}"),
        only("key", "n") | PAGE,
        only("value", "vm-5"),
        PAGE,
    ],
    "DescribeVpcs": [
        {"VpcIds": [f"vpc-{digits(5)}"]},
        only("vpc-id", f"vpc-{digits(5)}"),
        only("cidr", "10.0.5.0/24"),
        only("tag:Name", "name-5"),
        PAGE,
    ],
}
"""Each Describe call -> what it may say exactly: one thing by its id or a filter, or a page of five."""


@dataclass
class World:
    broker: Broker
    owner: str
    http: TestClient
    secret: str
    filled: int = 0

    def fill(self, count: int) -> None:
        """Have so many of each noun."""
        for fill in FILL.values():
            rows: dict[type, list[dict[str, Any]]] = {}
            for number in range(self.filled, count):
                for table, values in fill(self.owner, number):
                    rows.setdefault(table, []).append(whole(table, values, number))
            with self.broker.store.transaction() as session:
                for table, many in rows.items():
                    session.execute(insert(table), many)
        self.filled = count

    def list(self, path: str) -> int:
        """How many items its first page has."""
        answer = self.http.get(f"{path}?limit=100", headers={"Authorization": f"Bearer {self.secret}"})
        assert answer.status_code == 200, answer.text
        return len(answer.json()["items"])

    def describe(self, action: str, **params: Any) -> dict[str, Any]:
        who = Actor(self.owner, "admin", "test")
        call = Call(self.broker, who, "1", "here", "there", params, self.broker.clock.now())
        return dict(ACTIONS[action](call) or {})


class Still:
    """A clock that stands: the month, and who is shown, do not change under the test."""

    def now(self) -> datetime:
        return NOW


def whole(table: Any, values: dict[str, Any], number: int) -> dict[str, Any]:
    """A row; what is not said gets a value of its type, and one of its own where it is a text."""
    made = dict(values)
    for column in table.__table__.columns:
        kind = column.type
        if column.name in made:
            continue
        if column.nullable:
            made[column.name] = None
        elif isinstance(kind, JSON):
            made[column.name] = (
                {}
                if column.name
                in ("labels", "sites", "options", "attributes", "host_attributes", "params", "data", "slots")
                else []
            )
        elif isinstance(kind, Boolean):
            made[column.name] = False
        elif isinstance(kind, UtcDateTime):
            made[column.name] = NOW
        elif isinstance(kind, Enum):
            made[column.name] = kind.enums[0]
        elif kind.python_type in (int, float):
            made[column.name] = 1
        else:
            made[column.name] = f"{column.name}-{number}"
    return made


class Sent(list[str]):
    """Statements, and how many rows the database answered with."""

    rows = 0


@contextmanager
def statements(store: Store) -> Iterator[Sent]:
    """The statements that are sent meanwhile."""
    sent = Sent()

    def count(_cursor: Any, row: Any) -> Any:
        sent.rows += 1
        return row

    def note(_connection: Any, cursor: Any, text: str, *_rest: Any) -> None:
        sent.append(text)
        cursor.row_factory = count  # of sqlite3

    event.listen(store.engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(store.engine, "before_cursor_execute", note)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A broker without an engine: what is counted is the list's alone."""
    folder = tmp_path_factory.mktemp("lists")
    Sealer.create_file(folder / "key")
    settings = Settings(data_dir=folder)
    store = Store(settings.database_url)
    store.upgrade()
    broker = Broker(settings, store=store, clock=Still(), kinds={"simulated": lambda: SimulatedProvider})
    owner = project.create(broker, SYSTEM, name="default")
    _, secret = token.create(broker, SYSTEM, name="test", project_ref=owner.id, role="admin")
    with TestClient(create_app(broker)) as http:
        yield World(broker, owner.id, http, secret)
    broker.close()


def test_each_noun_with_a_list_is_filled() -> None:
    """A new noun needs a line in ``FILL``, or its list is measured empty."""
    assert {path.split("/")[2] for path in LISTS} == {row.plural for row in NOUNS if row.name in FILL}
    assert len(LISTS) > 15


Costs = dict[str, list[tuple[int, Sent]]]


def told(action: str, params: dict[str, Any]) -> str:
    return f"{action} {params}"


@pytest.fixture(scope="module")
def costs(world: World) -> Costs:
    """Each list, and each call of ``NARROW`` -> (items, statements) with few rows, and with many."""
    found: Costs = {}

    def describe(name: str, action: str, params: dict[str, Any]) -> None:
        with statements(world.broker.store) as sent:
            answer = world.describe(action, **params)
        (items,) = (value for value in answer.values() if isinstance(value, list))
        found.setdefault(name, []).append((len(items), sent))

    for count in (FEW, MANY):
        world.fill(count)
        for path in LISTS:
            world.list(path)  # what is read once and kept is not the list's
            with statements(world.broker.store) as sent:
                items = world.list(path)
            found.setdefault(path, []).append((items, sent))
        for action in DESCRIBES:
            describe(action, action, {"MaxResults": 100} if action in PAGED else {})
            for params in NARROW[action]:
                describe(told(action, params), action, params)
    return found


@pytest.mark.parametrize("name", [*LISTS, *DESCRIBES])
def test_a_list_costs_the_same_with_many_rows(costs: Costs, name: str) -> None:
    few, many = costs[name]
    chunks = 4 if name == "DescribeTags" else 0  # three thousand of them, a thousand in a transaction
    if name not in ("DescribeRegions", "DescribeAddresses"):  # there is one, and none
        assert FEW <= few[0] <= 3 * FEW
        assert many[0] >= 100
    assert len(few[1]) <= len(many[1]) <= len(few[1]) + chunks, "\n".join(many[1])


@pytest.mark.parametrize(
    ("action", "params"),
    [
        pytest.param(action, params, id=told(action, params))
        for action, narrow in NARROW.items()
        for params in narrow
    ],
)
def test_what_a_describe_call_says_exactly_is_looked_up_among_many(
    costs: Costs, action: str, params: dict[str, Any]
) -> None:
    (few_items, few), (items, many) = costs[told(action, params)]
    assert items == few_items == (0 if action == "DescribeAddresses" else params.get("MaxResults", 1))
    assert len(many) == len(few) <= 8, "\n".join(many)
    assert many.rows == few.rows <= 6 * max(items, 1) + 10, "\n".join(many)


def test_each_describe_call_has_something_to_say_exactly() -> None:
    """A new one needs a line in ``NARROW``."""
    assert sorted(NARROW) == DESCRIBES
    assert all(PAGE in narrow for action, narrow in NARROW.items() if takes_pages(action))


def takes_pages(action: str) -> bool:
    shape = service_model().operation_model(action).input_shape
    assert shape is not None
    return "MaxResults" in shape.members


@pytest.mark.parametrize("action", [action for action in DESCRIBES if takes_pages(action)])
def test_pages_are_all_of_them_once_in_order_also_when_filters_leave_some_out(
    world: World, costs: Costs, action: str
) -> None:
    name = WILD[action]
    params: dict[str, Any] = only(name, "*7*") if name else {}
    (everything,) = (value for value in world.describe(action, **params).values() if isinstance(value, list))
    assert 100 < len(everything) <= 3 * MANY
    paged: list[Any] = []
    token: str | None = None
    while token is not None or not paged:
        more = {"NextToken": token} if token else {}
        answer = world.describe(action, MaxResults=90, **params, **more)
        (items,) = (value for value in answer.values() if isinstance(value, list))
        paged, token = paged + items, answer["NextToken"]
        assert len(items) == 90 or token is None
    assert paged == everything


WILD = {
    "DescribeImages": "name",
    "DescribeInstanceStatus": "",
    "DescribeInstanceTypeOfferings": "instance-type",
    "DescribeInstanceTypes": "instance-type",
    "DescribeInstances": "reservation-id",
    "DescribeSubnets": "tag:Name",
    "DescribeTags": "value",
    "DescribeVpcs": "cidr",
}
"""Each Describe call with pages -> a filter of which about a fourth of many has a 7."""


def test_instances_without_a_page_are_read_many_at_a_time(world: World, costs: Any) -> None:
    with statements(world.broker.store) as sent:
        assert len(world.describe("DescribeInstances")["Reservations"]) == MANY
    assert len(sent) < 15


def test_pages_of_instances_are_all_of_them_once_in_order(world: World, costs: Any) -> None:
    whole_list = [one["ReservationId"] for one in world.describe("DescribeInstances")["Reservations"]]
    paged: list[str] = []
    token: str | None = None
    while token is not None or not paged:
        answer = world.describe(
            "DescribeInstances", MaxResults=300, **({"NextToken": token} if token else {})
        )
        paged += [one["ReservationId"] for one in answer["Reservations"]]
        token = answer["NextToken"]
    assert paged == whole_list == [f"r-{n}" for n in range(MANY)]


def test_what_is_over_for_long_is_not_even_read(world: World, costs: Any) -> None:
    read: list[str] = []

    def loaded(row: VMRow, _context: Any) -> None:
        read.append(row.id)

    event.listen(VMRow, "load", loaded)
    try:
        world.describe("DescribeInstances")
    finally:
        event.remove(VMRow, "load", loaded)
    assert len(set(read)) == MANY
