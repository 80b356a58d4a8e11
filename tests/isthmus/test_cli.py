"""The command line: what it asks the broker, what it prints, and how it ends."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest

from isthmus import schema
from isthmus.cli._session import Session
from isthmus.cli.main import main

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
SITE = schema.Site(id="site-1", name="campus", kind="kvm", state="up", hosts=2, created_at=NOW)
IMAGE = schema.Image(
    id="img-1",
    name="tiny",
    state="available",
    format="qcow2",
    size_bytes=5 << 20,
    sha256="0",
    sites={"a": "ami-1"},
    created_at=NOW,
)
NETWORK = schema.Network(id="net-1", name="lan", cidr="10.0.0.0/16", created_at=NOW)
GATEWAY = schema.Gateway(
    id="gw-1",
    name="gw",
    site="campus",
    network="lan",
    endpoint="203.0.113.2:51820",
    state="new",
    created_at=NOW,
)
POLICY = schema.Policy(
    version=3,
    text="version: 1\n",
    applied_by="admin",
    applied_at=NOW,
    burst="open",
    reason="queue.wait_p95 > 60",
    open=[schema.Clause(text="queue.wait_p95 > 60", holds=True, value=75.5)],
    close=[schema.Clause(text="local.cpu_used < 0.6", holds=None)],
)
EVENT = schema.Event(seq=7, time=NOW, kind="vm.placed", target="vm-1", message="placed on a")

Run = Callable[..., int]


@pytest.fixture
def run(broker: Any, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run one command against the fake broker; the exit code."""

    def go(*argv: str, **environ: str) -> int:
        capsys.readouterr()
        known = {"ISTHMUS_URL": "http://broker:8770", "ISTHMUS_TOKEN": "ist_t", "HOME": "/nowhere"}
        session = Session(transport=httpx2.MockTransport(broker), environ=known | environ)
        return main(argv, session)

    return go


def started(make: Any, **changes: Any) -> schema.VMOperation:
    return schema.VMOperation(vm=make["vm"](**changes), operation=make["operation"]())


def test_a_list_is_an_aligned_table(run: Run, broker: Any, make: Any, capsys: Any) -> None:
    old = datetime.now(UTC) - timedelta(hours=3)
    nic = schema.NIC(network="lan", subnet="s", address="10.0.0.5", mac="m")
    broker.on(
        "GET",
        "/v1/vms",
        [
            make["vm"](state="running", site="campus", host="a", nics=[nic], created_at=old),
            make["vm"](name="a-longer-name", status_reason="no host is free", created_at=old),
        ],
    )
    assert run("vm", "list") == 0
    assert capsys.readouterr().out.splitlines() == [
        "NAME           STATE    FLAVOR  SITE    HOST  ADDRESS   AGE  REASON",
        "web            running  small   campus  a     10.0.0.5  3h   -",
        "a-longer-name  pending  small   -       -     -         3h   no host is free",
    ]


def test_a_vms_nics_are_shown_with_all_their_addresses(run: Run, broker: Any, make: Any, capsys: Any) -> None:
    nics = [
        schema.NIC(
            id="nic-1", network="lan", address="10.0.0.5", addresses=["10.0.0.5", "10.0.0.9"], mac="m1"
        ),
        schema.NIC(id="nic-2", network="storage", mac="m2"),
    ]
    broker.on("GET", "/v1/vms/web", make["vm"](nics=nics))
    assert run("vm", "show", "web") == 0
    printed = capsys.readouterr().out
    assert "lan: 10.0.0.5, 10.0.0.9 (m1)" in printed
    assert "storage: no address yet (m2)" in printed


def test_an_empty_list_says_what_to_do_on_standard_error(run: Run, broker: Any, capsys: Any) -> None:
    broker.on("GET", "/v1/vms", [])
    assert run("vm", "list") == 0
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "isthmus vm create" in printed.err


@pytest.mark.parametrize(
    ("argv", "path", "answer"),
    [
        (("vm", "list"), "/v1/vms", "vms"),
        (("vm", "show", "web"), "/v1/vms/web", "vm"),
        (("site", "list"), "/v1/sites", [SITE]),
        (("site", "show", "campus"), "/v1/sites/campus", SITE),
        (("image", "list"), "/v1/images", [IMAGE]),
        (("network", "show", "lan"), "/v1/networks/lan", NETWORK),
        (("gateway", "list"), "/v1/gateways", [GATEWAY]),
        (("policy", "show"), "/v1/policy", POLICY),
        (("policy", "versions"), "/v1/policy/versions", [POLICY]),
        (("event", "list"), "/v1/events", [EVENT]),
        (("operation", "show", "op-1"), "/v1/operations/op-1", "operation"),
    ],
)
def test_json_is_exactly_what_the_api_answers(
    run: Run, broker: Any, make: Any, capsys: Any, argv: tuple[str, ...], path: str, answer: Any
) -> None:
    if isinstance(answer, str):
        answer = {"vms": [make["vm"]()], "vm": make["vm"](), "operation": make["operation"]()}[answer]
    broker.on("GET", path, answer)
    assert run(*argv, "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    if isinstance(answer, list):
        assert printed == [item.model_dump(mode="json") for item in answer]
    else:
        assert printed == answer.model_dump(mode="json")
    assert run(*argv) == 0  # and for people, the same without a mistake
    assert capsys.readouterr().out


def test_creating_a_vm_waits_until_it_runs(run: Run, broker: Any, make: Any, capsys: Any) -> None:
    nic = schema.NIC(network="lan", subnet="s", address="10.0.0.5", mac="m")
    broker.on("POST", "/v1/vms", started(make))
    broker.on("GET", "/v1/vms/vm-1", make["vm"](state="running", site="campus", host="a", nics=[nic]))
    argv = [
        "vm",
        "create",
        "web",
        "--image",
        "tiny",
        "--flavor",
        "small",
        "--network",
        "lan",
        "--label",
        "a=b=c",
    ]
    assert run(*argv, "--requirements", "cpu_free > 1", "--rank", "-price_hour") == 0
    assert capsys.readouterr().out == "web is running on a at campus: 10.0.0.5\n"
    assert broker.asked[0].body == {
        "name": "web",
        "image": "tiny",
        "flavor": "small",
        "networks": ["lan"],
        "labels": {"a": "b=c"},
        "requirements": "cpu_free > 1",
        "rank": "-price_hour",
    }


def test_creating_a_vm_without_waiting_returns_at_once(run: Run, broker: Any, make: Any, capsys: Any) -> None:
    broker.on("POST", "/v1/vms", started(make))
    assert run("vm", "create", "web", "--image", "tiny", "--flavor", "small", "--no-wait") == 0
    assert capsys.readouterr().out == "web is pending (vm-1)\n"
    assert len(broker.asked) == 1


def test_user_data_comes_from_a_file(run: Run, broker: Any, make: Any, tmp_path: Path) -> None:
    (tmp_path / "init.yaml").write_text("#cloud-config\n")
    broker.on("POST", "/v1/vms", started(make))
    argv = ["vm", "create", "web", "--image", "tiny", "--flavor", "small", "--no-wait", "--user-data"]
    assert run(*argv, str(tmp_path / "init.yaml")) == 0
    assert broker.asked[0].body["user_data"] == "#cloud-config\n"
    assert run(*argv, str(tmp_path / "none")) == 2


# How a command ends


def test_a_refusal_ends_with_1_and_says_what_to_do(run: Run, broker: Any, make: Any, capsys: Any) -> None:
    broker.on(
        "GET",
        "/v1/vms/web",
        make["refusal"](404, "vm_not_found", "there is no vm 'web'", "try `isthmus vm list`"),
    )
    assert run("vm", "show", "web") == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == "error: there is no vm 'web'\nhint: try `isthmus vm list`\n"


def test_a_failed_operation_ends_with_1(run: Run, broker: Any, make: Any, capsys: Any) -> None:
    broker.on("POST", "/v1/vms/web/start", started(make))
    broker.on("GET", "/v1/operations/op-1", make["operation"](state="failed", error="the disk is gone"))
    assert run("vm", "start", "web") == 1
    assert "the disk is gone" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("vm", "create", "web"), "--image"),
        (("vm", "lst"), "no such command 'lst'"),
        (("vms",), "did you mean 'vm'"),
        (("vm", "list", "--colour"), "--colour"),
        (("vm", "list", "--label", "blue"), "'blue' is not KEY=VALUE"),
        (("vm", "stop", "web", "--timeout", "-1"), "--timeout"),
        (("host", "maintenance", "a", "maybe"), "maybe"),
        (("policy", "check", "/no/such/file"), "/no/such/file"),
    ],
)
def test_a_wrong_command_ends_with_2_and_says_where_help_is(
    run: Run, capsys: Any, argv: Any, said: str
) -> None:
    assert run(*argv) == 2
    printed = capsys.readouterr()
    assert said.lower() in printed.err.lower()
    assert printed.err.startswith("error: ")
    assert "--help" in printed.err
    assert printed.out == ""


def test_no_broker_named_ends_with_2(run: Run, capsys: Any) -> None:
    assert run("vm", "list", ISTHMUS_URL="") == 2
    assert "hint: run `isthmus init`" in capsys.readouterr().err


def test_a_broker_that_is_away_ends_with_3(run: Run, broker: Any, capsys: Any) -> None:
    broker.on("GET", "/v1/status", httpx2.ConnectError("Connection refused"))
    assert run("status") == 3
    printed = capsys.readouterr().err
    assert "cannot reach the broker at http://broker:8770: Connection refused" in printed
    assert "Traceback" not in printed


def test_something_else_at_that_address_ends_with_3(run: Run, broker: Any, capsys: Any) -> None:
    broker.on("GET", "/v1/status", httpx2.Response(200, text="<html>"))
    assert run("status") == 3


def test_a_timeout_ends_with_4_and_says_how_to_go_on(run: Run, broker: Any, make: Any, capsys: Any) -> None:
    broker.on("GET", "/v1/operations/op-1", make["operation"]())
    assert run("operation", "wait", "op-1", "--timeout", "0") == 4
    printed = capsys.readouterr().err
    assert "still going on" in printed
    assert "isthmus operation wait op-1" in printed


def test_a_mistake_of_our_own_is_one_line_without_a_traceback(
    run: Run, broker: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker.on("GET", "/v1/status", ValueError("oh"))
    assert run("status") == 1
    assert capsys.readouterr().err.startswith("error: ValueError: oh\nhint: ")
    with pytest.raises(ValueError, match="oh"):
        run("status", ISTHMUS_DEBUG="1")


def test_the_root_options_win_over_the_environment(run: Run, broker: Any, make: Any) -> None:
    broker.on("GET", "/v1/vms", [])
    assert run("--url", "http://other:1", "--token", "ist_other", "vm", "list") == 0
    assert broker.asked[0].headers["host"] == "other:1"
    assert broker.asked[0].headers["authorization"] == "Bearer ist_other"


def test_the_version_is_printed(run: Run, capsys: Any) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out.startswith("isthmus ")


def test_what_a_broker_says_cannot_steer_the_terminal(run: Run, broker: Any, make: Any, capsys: Any) -> None:
    broker.on("GET", "/v1/vms", [make["vm"](status_reason="\x1b[2Jboo\nhoo")])
    broker.on("GET", "/v1/vms/x", make["refusal"](404, "vm_not_found", "no \x1b]0;title\x07 here"))
    run("vm", "list")
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert len(printed.splitlines()) == 2
    run("vm", "show", "x")
    assert "\x1b" not in capsys.readouterr().err


# Mistakes in files and expressions are shown where they are


def test_an_expressions_mistake_is_marked(run: Run, broker: Any, make: Any, capsys: Any) -> None:
    text = "cpu_free >> 4"
    refusal = make["refusal"](
        400,
        "invalid_expression",
        "requirements: unexpected >",
        "use one >",
        text=text,
        line=1,
        column=11,
        mend="use one >",
    )
    broker.on("POST", "/v1/vms", refusal)
    assert run("vm", "create", "web", "--image", "i", "--flavor", "f", "--requirements", text) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "error: requirements: unexpected >"
    assert lines[1] == "  cpu_free >> 4"
    assert lines[2] == "            ^"
    assert lines[3:] == ["  use one >"]


def test_a_policys_mistakes_are_listed_with_their_positions(
    run: Run, broker: Any, capsys: Any, tmp_path: Path
) -> None:
    file = tmp_path / "burst.yaml"
    file.write_text("version: 9\n")
    problem = schema.Problem(
        file="burst.yaml", line=1, column=10, message="version 9 is unknown", mend="write 1"
    )
    broker.on("POST", "/v1/policy/check", schema.PolicyCheck(ok=False, problems=[problem]))
    assert run("policy", "check", str(file)) == 1
    assert capsys.readouterr().err == "burst.yaml:1:10: version 9 is unknown\n  mend: write 1\n"
    assert broker.asked[0].body == {"text": "version: 9\n", "name": "burst.yaml"}
    broker.on("POST", "/v1/policy/check", schema.PolicyCheck(ok=True))
    assert run("policy", "check", str(file)) == 0


def test_a_policy_is_compared_with_what_is_in_force(
    run: Run, broker: Any, tmp_path: Path, capsys: Any
) -> None:
    file = tmp_path / "policy.yaml"
    broker.on("GET", "/v1/policy", POLICY)
    file.write_text(POLICY.text)
    assert run("policy", "diff", str(file)) == 0
    assert "is what is in force" in capsys.readouterr().out
    file.write_text(POLICY.text + "\nqueue: {repair: 5}\n")
    assert run("policy", "diff", str(file)) == 1
    assert "+queue: {repair: 5}" in capsys.readouterr().out
    assert run("policy", "diff", str(file), "--json") == 1
    assert json.loads(capsys.readouterr().out)["differs"] is True


def test_a_refused_policy_lists_its_mistakes(
    run: Run, broker: Any, make: Any, capsys: Any, tmp_path: Path
) -> None:
    (tmp_path / "p.yaml").write_text("version: 9\n")
    problems = [{"file": "p.yaml", "line": 1, "column": 10, "message": "unknown", "mend": "write 1"}]
    broker.on("PUT", "/v1/policy", make["refusal"](400, "invalid_policy", "1 mistake", problems=problems))
    assert run("policy", "apply", str(tmp_path / "p.yaml")) == 1
    assert "  p.yaml:1:10: unknown (write 1)\n" in capsys.readouterr().err


def test_the_policy_shows_each_condition_with_its_value(run: Run, broker: Any, capsys: Any) -> None:
    broker.on("GET", "/v1/policy", POLICY)
    run("policy", "show")
    printed = capsys.readouterr().out
    assert "queue.wait_p95 > 60: yes, now 75.5" in printed
    assert "local.cpu_used < 0.6: undefined" in printed
    run("policy", "show", "--text")
    assert capsys.readouterr().out == "version: 1\n"


def test_why_is_told_per_site(run: Run, broker: Any, capsys: Any) -> None:
    why = schema.Why(
        vm="web",
        placed=False,
        summary="no host has room",
        sites=[
            schema.SiteWhy(
                site="campus",
                hosts=2,
                feasible=0,
                verdict="full",
                terms=[
                    schema.Term(text="cpu_free >= 4", refused=2, undefined=1),
                    schema.Term(text="arch", refused=0),
                ],
                nearest=schema.NearestMiss(host="a", lacks=["2 more cores"]),
            )
        ],
        policy=["open: queue.wait_p95 > 60 (now 12)"],
        admit="2 more cores on a",
    )
    broker.on("GET", "/v1/vms/web/why", why)
    assert run("vm", "why", "web") == 0
    assert capsys.readouterr().out.splitlines() == [
        "no host has room",
        "",
        "SITE    HOSTS  FEASIBLE  VERDICT",
        "campus      2         0  full",
        "",
        "campus:",
        "  refused 2 of 2: cpu_free >= 4 (1 of them for want of an attribute)",
        "  nearest: a, refused: 2 more cores",
        "",
        "burst policy:",
        "  open: queue.wait_p95 > 60 (now 12)",
        "",
        "would admit it: 2 more cores on a",
    ]


# Secrets


def test_a_kvm_site_takes_its_hosts_with_or_without_names(run: Run, broker: Any, capsys: Any) -> None:
    broker.on("POST", "/v1/sites", SITE)
    uri = "qemu+unix:///system?socket=/run/a"
    argv = ["site", "add", "kvm", "campus", "--host", uri, "--host", f"b={uri}", "--option", "pool_path=/srv"]
    assert run(*argv, "--attribute", "rack=4", "--host-attribute", "b:cpu_total=2") == 0
    assert capsys.readouterr().out == "campus is up, 2 hosts\n"
    assert broker.asked[0].body == {
        "name": "campus",
        "kind": "kvm",
        "options": {"hosts": [uri, {"name": "b", "uri": uri}], "pool_path": "/srv"},
        "attributes": {"rack": 4},
        "host_attributes": {"b": {"cpu_total": 2}},
    }


def test_an_ec2_site_takes_its_secret_from_a_file(run: Run, broker: Any, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s3cret\n")
    (tmp_path / "ca.pem").write_text("PEM")
    broker.on("POST", "/v1/sites", SITE)
    argv = ["site", "add", "ec2", "aws", "--region", "eu-1", "--endpoint", "https://cloud:8773"]
    argv += ["--endpoint-ca", str(tmp_path / "ca.pem"), "--access-key-id", "AKIA1"]
    assert run(*argv, "--secret-access-key-file", str(tmp_path / "secret")) == 0
    body = broker.asked[0].body
    assert body["credentials"] == {"access_key_id": "AKIA1", "secret_access_key": "s3cret"}
    assert body["options"] == {"endpoint": "https://cloud:8773", "region": "eu-1", "ca_pem": "PEM"}


def test_an_ec2_site_takes_its_secret_from_the_environment(run: Run, broker: Any) -> None:
    broker.on("POST", "/v1/sites", SITE)
    environ = {"AWS_ACCESS_KEY_ID": "AKIA1", "AWS_SECRET_ACCESS_KEY": "s", "AWS_SESSION_TOKEN": "t"}
    assert run("site", "add", "ec2", "aws", "--region", "eu-1", **environ) == 0
    assert broker.asked[0].body["credentials"] == {
        "access_key_id": "AKIA1",
        "secret_access_key": "s",
        "session_token": "t",
    }


def test_a_credential_comes_from_a_file_or_the_environment(run: Run, broker: Any, tmp_path: Path) -> None:
    (tmp_path / "p").write_text("sesame\n")
    broker.on("POST", "/v1/sites", SITE)
    argv = ["site", "add", "other", "x", "--credential", f"a=@{tmp_path / 'p'}", "--credential", "b=env:PW"]
    assert run(*argv, PW="tulip") == 0
    assert broker.asked[0].body["credentials"] == {"a": "sesame", "b": "tulip"}


@pytest.mark.parametrize("source", ["sesame", "env:NOT_SET", "@/no/such/file", "-"])
def test_a_secret_on_the_command_line_is_refused(run: Run, broker: Any, capsys: Any, source: str) -> None:
    assert run("site", "add", "other", "x", "--credential", f"password={source}") == 2
    assert "--credential" in capsys.readouterr().err
    assert broker.asked == []


def test_a_gateway_is_shown_with_what_its_agent_can_and_what_is_wrong(
    run: Run, broker: Any, capsys: Any
) -> None:
    shown = GATEWAY.model_copy(
        update={
            "state": "incompatible",
            "status_reason": "upgrade the broker",
            "document_versions": [7, 8],
            "features": ["gateway-peers"],
            "software": "9.0",
        }
    )
    broker.on("GET", "/v1/gateways/gw", shown)
    assert run("gateway", "show", "gw") == 0
    told = capsys.readouterr().out
    for words in ("incompatible", "upgrade the broker", "9.0", "7, 8", "gateway-peers"):
        assert words in told
    assert run("gateway", "show", "gw", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["document_versions"], told["features"], told["software"]) == (
        [7, 8],
        ["gateway-peers"],
        "9.0",
    )


def test_a_gateways_token_is_written_to_a_file_only_its_owner_reads(
    run: Run, broker: Any, capsys: Any, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text("old")
    file.chmod(0o644)
    broker.on("POST", "/v1/gateways", schema.GatewayCreated(gateway=GATEWAY, token="ist_secret"))
    argv = [
        "gateway",
        "create",
        "gw",
        "--site",
        "campus",
        "--network",
        "lan",
        "--endpoint",
        "203.0.113.2:51820",
    ]
    assert run(*argv, "--token-file", str(file)) == 0
    printed = capsys.readouterr()
    assert "ist_secret" not in printed.out + printed.err
    assert f"--token-file {file}" in printed.err
    assert file.read_text() == "ist_secret\n"
    assert stat.S_IMODE(os.stat(file).st_mode) == 0o600
    assert run(*argv) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "ist_secret"


def test_a_gateways_new_token_is_shown_once_or_written_to_a_file(
    run: Run, broker: Any, capsys: Any, tmp_path: Path
) -> None:
    broker.on("POST", "/v1/gateways/gw/token", schema.GatewayCreated(gateway=GATEWAY, token="ist_new"))
    assert run("gateway", "renew-token", "gw", "--token-file", str(tmp_path / "token")) == 0
    printed = capsys.readouterr()
    assert "ist_new" not in printed.out + printed.err
    assert (tmp_path / "token").read_text() == "ist_new\n"
    assert run("gateway", "renew-token", "gw") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "ist_new"


def test_a_private_key_is_never_sent(run: Run, broker: Any, tmp_path: Path) -> None:
    (tmp_path / "id").write_text("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    assert run("keypair", "create", "me", str(tmp_path / "id")) == 2
    assert broker.asked == []


# The other nouns


def test_mapping_an_image_keeps_the_other_sites(run: Run, broker: Any) -> None:
    broker.on("GET", "/v1/images/tiny", IMAGE).on("PATCH", "/v1/images/img-1", IMAGE)
    assert run("image", "map", "tiny", "b=ami-2") == 0
    assert broker.asked[-1].body == {"sites": {"a": "ami-1", "b": "ami-2"}}
    assert run("image", "map", "tiny", "a=") == 0
    assert broker.asked[-1].body == {"sites": {}}


def test_versions_of_an_image_are_imported_listed_and_deprecated(run: Run, broker: Any, capsys: Any) -> None:
    second = IMAGE.model_copy(update={"name": "tiny@2", "family": "tiny", "version": 2, "project": "lab"})
    old = second.model_copy(update={"deprecated_at": IMAGE.created_at, "visibility": "private"})
    broker.on("POST", "/v1/images", second).on("GET", "/v1/images", [second, old])
    broker.on("PATCH", "/v1/images/tiny%402", old)
    options = ("--min-disk", "4", "--login-user", "ada", "--project", "lab", "--visibility", "shared")
    assert run("image", "create", "tiny", "--path", "/srv/tiny.raw", *options) == 0
    assert broker.asked[-1].body == {
        "name": "tiny",
        "path": "/srv/tiny.raw",
        "min_disk_gb": 4,
        "login_user": "ada",
        "project": "lab",
        "visibility": "shared",
    }
    assert "tiny@2 is available" in capsys.readouterr().out
    assert run("image", "list") == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split()[:5] == ["FAMILY", "VERSION", "PROJECT", "VISIBILITY", "STATE"]
    assert [line.split()[:5] for line in lines] == [
        ["tiny", "2", "lab", "shared", "available"],
        ["tiny", "2", "lab", "private", "deprecated"],
    ]
    for switch, wanted in (((), True), (("off",), False)):
        assert run("image", "deprecate", "tiny@2", *switch) == 0
        assert broker.asked[-1].body == {"deprecated": wanted}
    assert "tiny@2 is deprecated" in capsys.readouterr().out


def test_network_of_a_project_is_made_and_told_from_the_shared_ones(
    run: Run, broker: Any, capsys: Any
) -> None:
    own = NETWORK.model_copy(update={"project": "lab", "visibility": "private"})
    broker.on("POST", "/v1/networks", own).on("GET", "/v1/networks", [NETWORK, own])
    broker.on("GET", "/v1/networks/lan", own)
    assert run("network", "create", "lan", "10.0.0.0/16", "--project", "lab") == 0
    assert broker.asked[-1].body == {"name": "lan", "cidr": "10.0.0.0/16", "project": "lab"}
    assert run("network", "create", "lan", "10.0.0.0/16", "--project", "lab", "--visibility", "shared") == 0
    assert broker.asked[-1].body["visibility"] == "shared"
    capsys.readouterr()
    assert run("network", "list") == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split()[:4] == ["NAME", "PROJECT", "VISIBILITY", "CIDR"]
    assert [line.split()[:4] for line in lines] == [
        ["lan", "-", "shared", "10.0.0.0/16"],
        ["lan", "lab", "private", "10.0.0.0/16"],
    ]
    assert run("network", "show", "lan") == 0
    assert {"project     lab", "visibility  private"} <= set(capsys.readouterr().out.splitlines())


def test_deleting_several_vms_starts_all_before_it_waits(
    run: Run, broker: Any, make: Any, capsys: Any
) -> None:
    for name in ("a", "b"):
        broker.on("DELETE", f"/v1/vms/{name}", started(make))
    broker.on("GET", "/v1/operations/op-1", make["operation"](state="done"))
    assert run("vm", "delete", "a", "b") == 0
    assert [asked.method for asked in broker.asked] == ["DELETE", "DELETE", "GET", "GET"]
    assert capsys.readouterr().out == "a is deleted\nb is deleted\n"


@pytest.mark.parametrize(
    ("argv", "method", "path"),
    [
        (("create", "web", "--image", "tiny", "--flavor", "small"), "POST", "/v1/vms"),
        (("start", "web"), "POST", "/v1/vms/web/start"),
        (("stop", "web", "--force"), "POST", "/v1/vms/web/stop"),
        (("reboot", "web"), "POST", "/v1/vms/web/reboot"),
        (("suspend", "web"), "POST", "/v1/vms/web/suspend"),
        (("resume", "web"), "POST", "/v1/vms/web/resume"),
        (("migrate", "web", "--to", "b"), "POST", "/v1/vms/web/migrate"),
        (("delete", "web"), "DELETE", "/v1/vms/web"),
    ],
)
def test_a_dry_run_is_one_request_and_one_line(
    run: Run, broker: Any, make: Any, capsys: Any, argv: Any, method: str, path: str
) -> None:
    told = schema.DryRun(
        action="vm.x", vm=make["vm"](), message="web would be placed on a at campus (rank 2.5)"
    )
    broker.on(method, path, told)
    assert run("vm", *argv, "--dry-run") == 0
    assert capsys.readouterr().out == "web would be placed on a at campus (rank 2.5); nothing was changed\n"
    assert run("vm", *argv, "--dry-run", "--json") == 0
    assert schema.DryRun.model_validate_json(capsys.readouterr().out) == told
    assert [(asked.method, asked.path, asked.query) for asked in broker.asked] == [
        (method, path, [("dry_run", "1")])
    ] * 2
    broker.on(method, path, make["refusal"](409, "wrong_state", "cannot: it is stopped", "start it"))
    assert run("vm", *argv, "--dry-run") == 1
    assert capsys.readouterr().err == "error: cannot: it is stopped\nhint: start it\n"


def test_a_dry_run_of_a_drain_shows_what_would_move(run: Run, broker: Any, capsys: Any) -> None:
    broker.on("POST", "/v1/migrations", PLAN)
    assert run("host", "drain", "a", "--dry-run") == 0
    out = capsys.readouterr().out
    assert "campus/b" in out
    assert out.endswith("\nnothing was changed\n")
    assert run("host", "drain", "a", "--json", "--dry-run") == 0
    assert schema.MigrationPlan.model_validate_json(capsys.readouterr().out) == PLAN
    assert run("host", "drain", "a") == 0
    assert "nothing was changed" not in capsys.readouterr().out
    queries = [asked.query for asked in broker.asked]
    assert queries == [[("dry_run", "1")], [("dry_run", "1")], []]


def test_the_console_is_printed_as_it_is(run: Run, broker: Any, capsys: Any) -> None:
    broker.on("GET", "/v1/vms/web/console", schema.Console(text="login: "))
    assert run("vm", "console", "web") == 0
    assert capsys.readouterr().out == "login: \n"


def test_events_are_followed_as_lines_of_json(run: Run, broker: Any, make: Any, capsys: Any) -> None:
    broker.on("GET", "/v1/events", [EVENT], make["refusal"](401, "unauthenticated", "revoked"))
    assert run("event", "follow", "--after", "6", "--json") == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["seq"] == 7


@pytest.mark.parametrize(
    ("argv", "method", "path"),
    [
        (("site", "refresh", "campus"), "POST", "/v1/sites/campus/refresh"),
        (("site", "remove", "campus"), "DELETE", "/v1/sites/campus"),
        (("flavor", "delete", "small"), "DELETE", "/v1/flavors/small"),
        (("image", "delete", "tiny"), "DELETE", "/v1/images/tiny"),
        (("keypair", "delete", "me"), "DELETE", "/v1/keypairs/me"),
        (("reservation", "delete", "exam"), "DELETE", "/v1/reservations/exam"),
        (("network", "delete", "lan"), "DELETE", "/v1/networks/lan"),
        (("network", "remove-subnet", "lan", "campus"), "DELETE", "/v1/networks/lan/subnets/campus"),
        (("gateway", "delete", "gw"), "DELETE", "/v1/gateways/gw"),
        (("project", "delete", "lab"), "DELETE", "/v1/projects/lab"),
        (("token", "delete", "tok-1"), "DELETE", "/v1/tokens/tok-1"),
        (("accesskey", "delete", "AKIA1"), "DELETE", "/v1/accesskeys/AKIA1"),
    ],
)
def test_a_short_command_is_one_request(
    run: Run, broker: Any, capsys: Any, argv: Any, method: str, path: str
) -> None:
    broker.on(method, path, SITE if method == "POST" else None)
    assert run(*argv) == 0
    assert [(asked.method, asked.path) for asked in broker.asked] == [(method, path)]
    assert len(capsys.readouterr().out.splitlines()) == 1


PLAN = schema.MigrationPlan(
    goal="pack",
    moves=[schema.Move(vm="web", source="campus/a", target="campus/b", cost_s=2.5)],
    stuck=[schema.Stuck(vm="db", reason="it is stopped")],
    hosts_before=2,
    hosts_after=1,
)


def test_a_plan_of_migrations_is_shown_with_who_stays(run: Run, broker: Any, capsys: Any) -> None:
    broker.on("POST", "/v1/migrations", PLAN)
    assert run("rebalance", "--goal", "pack", "--max-cost", "10m") == 0
    out = capsys.readouterr().out
    assert "campus/a" in out
    assert "db stays: it is stopped" in out
    assert "hosts in use 2 -> 1" in out
    assert "--apply does it" in out
    assert broker.asked[0].body == {"goal": "pack", "max_moves": 20, "max_cost_s": 600.0, "rest_s": 600.0}


def test_a_reservation_needs_an_end(run: Run, broker: Any, capsys: Any) -> None:
    assert run("reservation", "create", "exam", "--flavor", "small") == 2
    assert "--end / --duration" in capsys.readouterr().err
    assert broker.asked == []


def test_an_expression_of_opennebula_is_translated_with_its_warnings(
    run: Run, broker: Any, capsys: Any
) -> None:
    answer = schema.Expression(
        text="cpu_free * 100",
        warnings=["OpenNebula cuts ranks to whole numbers"],
        hosts=[schema.HostWorth(host="campus/a", value=250.5), schema.HostWorth(host="campus/b")],
    )
    broker.on("POST", "/v1/expressions", answer)
    assert run("expression", "check", "FREE_CPU", "--rank", "--dialect", "opennebula") == 0
    out = capsys.readouterr().out
    assert out.splitlines()[:2] == ["cpu_free * 100", "warning: OpenNebula cuts ranks to whole numbers"]
    assert "250.5" in out
    assert "undefined" in out


# Who may do what


def _can(allowed: bool) -> schema.Can:
    member = schema.Grant(project="lab", role="member")
    return schema.Can(
        allowed=allowed,
        who="token ci",
        action="vm.delete",
        what="vm web",
        project="lab",
        scope="project",
        roles=["member", "admin"],
        grants=[member],
        grant=member if allowed else None,
        reason="token ci is member in project lab, and that role has vm.delete",
    )


def test_whether_somebody_may_is_said_with_its_grant_and_by_the_exit_code(
    run: Run, broker: Any, capsys: Any
) -> None:
    broker.on("GET", "/v1/auth/can", _can(True), _can(False))
    assert run("auth", "can", "ci", "vm.delete", "vm:web") == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "yes: token ci is member in project lab, and that role has vm.delete"
    assert [line.split(maxsplit=1) for line in out[1:]] == [
        ["who", "token ci"],
        ["action", "vm.delete"],
        ["what", "vm web"],
        ["grants", "member in project lab"],
        ["needed", "member or admin, in the thing's project"],
    ]
    assert run("auth", "can", "ci", "vm.delete", "--json") == 1
    assert json.loads(capsys.readouterr().out) == _can(False).model_dump(mode="json")
    asked = [dict(one.query) for one in broker.asked]
    assert asked == [
        {"who": "ci", "action": "vm.delete", "what": "vm:web"},
        {"who": "ci", "action": "vm.delete"},
    ]


def test_permissions_are_listed_by_role(run: Run, broker: Any, capsys: Any) -> None:
    row = schema.Permission(
        name="vm.get", scope="project", roles=["reader", "admin"], description="See a VM."
    )
    broker.on("GET", "/v1/auth/permissions", [row])
    assert run("auth", "permissions", "--role", "reader") == 0
    assert capsys.readouterr().out.splitlines()[1].split() == [
        "vm.get",
        "project",
        "reader,",
        "admin",
        "See",
        "a",
        "VM.",
    ]
    assert dict(broker.asked[0].query)["role"] == "reader"
