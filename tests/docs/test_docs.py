"""The documentation says what the code does: commands, settings, metrics, errors, events, attributes, links, examples."""

from __future__ import annotations

import ast
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from api.native.metrics import Requests, _gauges
from broker import errors, labelled
from broker.engine.registry import OPERATIONS
from broker.settings import Settings
from broker.states import HostState, PeerState, SiteState
from broker.status import StatusView
from isthmus.cli import main as cli
from placement.language import parse as parse_expression
from placement.policy import Policy, parse
from providers.ec2 import Ec2Provider
from providers.ec2.flavor import InstanceType
from providers.ec2.flavor import attributes as ec2_attributes
from providers.ec2.options import Options as Ec2Options
from providers.kvm import KvmProvider
from providers.port import SUPPORT, Capability, Provider, SiteContext
from providers.simulated import SimulatedProvider

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
REFERENCE = ROOT / "docs" / "reference"

FENCE = re.compile(r"^(```+)(\w*)[^\n]*\n(.*?)^\1\s*$", re.MULTILINE | re.DOTALL)


def blocks(language: str) -> Iterator[tuple[str, str]]:
    """(page, text) of each fenced block of a language."""
    for page in PAGES:
        for _, name, text in FENCE.findall(page.read_text()):
            if name == language:
                yield page.relative_to(ROOT).as_posix(), text


def rows(page: Path) -> dict[str, list[str]]:
    """First cells of a page's tables, each name in backquotes by itself, with the cells of its row."""
    found: dict[str, list[str]] = {}
    for line in page.read_text().splitlines():
        if line.startswith("|"):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("| "))]
            for name in re.findall(r"`([^`]+)`", cells[0]):
                found[name] = cells
    return found


def sources(folder: str) -> Iterator[ast.Module]:
    """The syntax trees of a package."""
    for path in sorted((ROOT / folder).rglob("*.py")):
        yield ast.parse(path.read_text(), str(path))


def calls(folder: str) -> Iterator[tuple[str, ast.Call]]:
    """(name, call) of every call of a function or method in a package."""
    for tree in sources(folder):
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                function = node.func
                name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
                yield name, node


# -- commands ------------------------------------------------------------------------------------------------------


def commands() -> Iterator[tuple[list[str], Any]]:
    """Every command with its words."""
    for noun in cli.NOUNS:
        command = cli._load(noun)
        verbs = getattr(command, "commands", None)
        if verbs is None:
            yield [noun], command
        for verb, inner in (verbs or {}).items():
            yield [noun, verb], inner


def options(command: Any) -> set[str]:
    """The long options of a command."""
    return {
        name
        for param in command.params
        if param.param_type_name == "option"
        for name in [*param.opts, *param.secondary_opts]
        if name.startswith("--") and "completion" not in name
    }


def test_reference_names_every_command_and_option() -> None:
    text = (REFERENCE / "cli.md").read_text()
    missing = [f"isthmus {name}" for name in cli.EXTRAS if f"isthmus {name}" not in text]
    for words, command in commands():
        title = "isthmus " + " ".join(words)
        place = re.search(rf"^##+ `?{re.escape(title)}\b(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL)
        if place is None:
            missing.append(title)
        else:
            missing += [f"{title} {name}" for name in options(command) if f"`{name}" not in place[0]]
    missing += [name for name in options(typer.main.get_command(cli.app)) if f"`{name}`" not in text]
    assert missing == []


def _shell_lines() -> Iterator[tuple[str, str]]:
    for page, text in blocks("console"):
        for line in re.sub(r"\\\n\s*", " ", text).splitlines():
            if line.startswith(("$ ", "# ")):
                yield page, line[2:]
    for unit in sorted((ROOT / "examples").rglob("*.service")):
        for line in re.sub(r"\\\n\s*", " ", unit.read_text()).splitlines():
            if line.startswith("ExecStart="):
                yield unit.relative_to(ROOT).as_posix(), line.removeprefix("ExecStart=")


def isthmus_commands() -> list[tuple[str, str]]:
    """(page, arguments) of every ``isthmus ...`` that a page shows, also behind sudo, in a pipe or in ``$(...)``."""
    start = re.compile(r"(?:sudo (?:-u \S+ )?)?(?:\S*/)?isthmus\s+(.+)")
    found = []
    for page, line in _shell_lines():
        for part in re.split(r"\s*(?:\|\|?|&&|;|\$\()\s*", line):
            match = start.fullmatch(part.strip())
            if match:
                found.append((page, match[1]))
    return found


@pytest.mark.parametrize(
    ("page", "text"), [pytest.param(*each, id=f"{each[0]}: {each[1]}") for each in isthmus_commands()]
)
def test_shown_command_exists_and_takes_what_it_is_given(page: str, text: str) -> None:
    words = shlex.split(re.split(r"\s>|\)", text)[0] if "'" not in text else text, comments=True)
    if words[0] in ("--help", "--version", "--install-completion"):
        return
    assert words[0] in cli.NOUNS or words[0] in cli.EXTRAS, f"there is no `isthmus {words[0]}`"
    command = cli._load(words.pop(0))
    while getattr(command, "commands", None) is not None:
        if not words or words[0] == "--help":
            return
        assert words[0] in command.commands, f"there is no `{words[0]}` in {text}"
        command = command.commands[words.pop(0)]
    if "--help" not in words:
        command.make_context(command.name, words)  # parses and checks; runs nothing


def test_pages_show_commands() -> None:
    """So that the test above cannot come to hold nothing."""
    assert len(isthmus_commands()) > 50


# -- settings, metrics, errors ---------------------------------------------------------------------------------------


def settings() -> dict[str, Any]:
    """Name -> default of every setting."""
    found: dict[str, Any] = {}
    for name, field in Settings.model_fields.items():
        inner = getattr(field.default_factory, "model_fields", None)
        if inner is None:
            found[name] = field.default
        else:
            found |= {f"{name}.{each}": part.default for each, part in inner.items()}
    return found


def test_reference_has_every_setting_with_its_default() -> None:
    documented = rows(REFERENCE / "settings.md")
    assert set(settings()) == set(documented)
    for name, default in settings().items():
        if name != "data_dir":  # its default is where the file lies
            shown = f'"{default}"' if isinstance(default, str) else f"{default:g}"
            assert documented[name][1] == f"`{shown}`", name


@pytest.mark.parametrize(("page", "text"), [pytest.param(*each, id=each[0]) for each in blocks("toml")])
def test_shown_settings_exist(page: str, text: str) -> None:
    shown = tomllib.loads(text)
    if set(shown) <= {"url", "token", "ca"}:
        return  # the client's file
    for section, values in shown.items():
        names = [f"{section}.{name}" for name in values] if isinstance(values, dict) else [section]
        assert set(names) <= set(settings()), names


def test_reference_has_every_metric() -> None:
    view = StatusView(broker_id="", project="", role="", sites=0, hosts=0, vms=0, queue=0, burst="open")
    exposed = {
        metric.name + ("_total" if metric.type == "counter" else "")
        for registry in (Requests().registry, _gauges(view, None))
        for metric in registry.collect()
    }
    documented = {name for name in rows(REFERENCE / "metrics.md") if name.startswith("isthmus_")}
    assert exposed == documented


def _subclasses(kind: type[errors.BrokerError]) -> Iterator[type[errors.BrokerError]]:
    for inner in kind.__subclasses__():
        yield inner
        yield from _subclasses(inner)


def test_reference_has_every_error_code() -> None:
    codes = {"internal"} | {kind.code for kind in _subclasses(errors.BrokerError)}
    for folder in ("broker", "api/native"):
        for name, call in calls(folder):
            first = call.args[0] if call.args else None
            if name in ("NotFound", "Exists") and isinstance(first, ast.Constant):
                codes.add(f"{first.value!s}_{'not_found' if name == 'NotFound' else 'exists'}")
            if name == "_answer" and len(call.args) > 1 and isinstance(call.args[1], ast.Constant):
                codes.add(str(call.args[1].value))
    for _, call in calls("isthmus"):
        codes |= {
            str(word.value.value)
            for word in call.keywords
            if word.arg == "code" and isinstance(word.value, ast.Constant) and word.value.value
        }
    assert sorted(codes - set(rows(REFERENCE / "errors.md"))) == []


def test_reference_of_operations_is_what_the_declarations_say() -> None:
    from broker.engine.reference import write

    assert (REFERENCE / "operations.md").read_text() == write() + "\n", (
        "run `python -m broker.engine.reference > docs/reference/operations.md`"
    )


def test_reference_of_permissions_is_what_the_table_says() -> None:
    from broker.reference import write

    assert (REFERENCE / "permissions.md").read_text() == write() + "\n", (
        "run `python -m broker.reference > docs/reference/permissions.md`"
    )


# -- events ----------------------------------------------------------------------------------------------------------

COMPUTED = {
    # Power changes name what they need of a site right after their kind.
    "{kind}.requested": {
        f"{kind}.requested"
        for kind in re.findall(r'"(vm\.\w+)",\s+needs=', (ROOT / "broker" / "power.py").read_text())
    },
    "{row.kind}.{kind}": {f"{kind}.done" for kind in OPERATIONS}
    | {f"{kind}.failed" for kind, declaration in OPERATIONS.items() if declaration.abandon is not None},
    "host.{state}": {f"host.{state}" for state in HostState},
    "site.{state}": {f"site.{state}" for state in (SiteState.UP, SiteState.UNREACHABLE)},
    "peer.{state}": {f"peer.{state}" for state in (PeerState.REMOVED, PeerState.EXPIRED)},
    "{noun}.labelled": {f"{noun}.labelled" for noun in labelled.KINDS},
    "policy.{word}": {"policy.opened", "policy.closed"},
    "reservation.{word}": {"reservation.started", "reservation.ended"},
}
"""Kinds that the code puts together, by the text of their f-string."""


def _texts(node: ast.expr) -> Iterator[str]:
    if isinstance(node, ast.Constant):
        yield str(node.value)
    elif isinstance(node, ast.JoinedStr):
        yield ast.unparse(node)[2:-1]
    elif isinstance(node, ast.IfExp):
        yield from _texts(node.body)
        yield from _texts(node.orelse)


def recorded_kinds() -> set[str]:
    """Every kind of event that the broker records."""
    places = {"record": 2, "record_all": 2, "_say": 3, "_say_once": 1}
    found: set[str] = set()
    for name, call in calls("broker"):
        if name in places and len(call.args) > places[name]:
            for text in _texts(call.args[places[name]]):
                assert "{" not in text or text in COMPUTED, f"add what {text!r} stands for to COMPUTED"
                found |= COMPUTED.get(text, {text})
    return found


def test_reference_has_every_kind_of_event_and_no_other() -> None:
    kinds = recorded_kinds()
    assert len(kinds) > 50
    assert sorted(kinds ^ set(rows(REFERENCE / "events.md"))) == []


# -- host attributes -------------------------------------------------------------------------------------------------


def _keys(path: str, function: str) -> set[str]:
    """The names that a function gives to attributes: keys of its dictionaries, and of what it assigns."""
    tree = ast.parse((ROOT / path).read_text())
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == function:
            for inner in ast.walk(node):
                if isinstance(inner, ast.Dict):
                    found |= {str(key.value) for key in inner.keys if isinstance(key, ast.Constant)}
                if isinstance(inner, ast.Subscript) and isinstance(inner.ctx, ast.Store):
                    found |= {str(inner.slice.value)} if isinstance(inner.slice, ast.Constant) else set()
                if isinstance(inner, ast.Call) and getattr(inner.func, "attr", "") == "update":
                    found |= {word.arg for word in inner.keywords if word.arg}
    return found


def _simulated(**wanted: object) -> set[str]:
    provider = SimulatedProvider(SiteContext("brk", "site", "sim", options=wanted))
    return {name for report in provider.inventory() for name in report.attributes}


def reported_attributes() -> dict[str, set[str]]:
    """Who reports which attributes."""
    return {
        "kvm": _keys("providers/kvm/host.py", "report") | _keys("providers/kvm/host.py", "_facts"),
        "ec2": set(ec2_attributes(Ec2Options(region="r"), "z", InstanceType("t", 1, 1))) - {"elastic"},
        "simulated": _simulated(hosts=1) | _simulated(elastic=True, types={"t": {}}),
        "broker": _keys("broker/host.py", "_merged")
        | (_keys("broker/host.py", "attributes") - {"running_vms", "disk_free_gb"}),
    }


@pytest.mark.parametrize("who", ["kvm", "ec2", "simulated", "broker"])
def test_reference_has_every_host_attribute_with_who_reports_it(who: str) -> None:
    documented = rows(REFERENCE / "attributes.md")
    reported = reported_attributes()[who]
    assert len(reported) > 5
    assert sorted(reported - set(documented)) == []
    assert sorted(name for name in reported if who not in documented[name][1]) == []


# -- capabilities ----------------------------------------------------------------------------------------------------

SITES: dict[str, tuple[str, str, Any, list[dict[str, object]]]] = {
    "kvm": ("sites-kvm.md", "`kvm`", KvmProvider, [{"hosts": ["qemu:///system"]}]),
    "simulated": ("sites-kvm.md", "`simulated`", SimulatedProvider, [{}, {"addresses": False}]),
    "simulated cloud": (
        "sites-kvm.md",
        "`simulated`, `elastic`",
        SimulatedProvider,
        [
            {"elastic": True, "types": {"t": {}}},
            {"elastic": True, "types": {"t": {"spot_price_hour": 0.1}}, "addresses": True},
        ],
    ),
    "ec2": ("sites-ec2.md", "`ec2`", Ec2Provider, [{"region": "r"}, {"region": "r", "spot": True}]),
}
"""Page, column, provider, and options that make a difference."""


@pytest.mark.parametrize("site_kind", SITES)
def test_reference_says_which_capabilities_a_kind_of_site_has(site_kind: str) -> None:
    page, column, kind, options = SITES[site_kind]
    sites = [kind(SiteContext("brk", "site", "s", options=each)).capabilities for each in options]
    documented = rows(REFERENCE / page)
    header = next(
        line for line in (REFERENCE / page).read_text().splitlines() if line.startswith("| capability |")
    )
    at = [cell.strip() for cell in header.strip("| ").split("|")].index(column)
    for name in Capability:
        have = [name in capabilities for capabilities in sites]
        said = documented[name][at]
        if all(have):
            assert said == "yes", name
        elif not any(have):
            assert said == "no", name
        else:
            assert said not in ("yes", "no"), f"{name}: say on what it depends"


def test_how_to_says_what_each_capability_demands() -> None:
    documented = rows(ROOT / "docs" / "how-to" / "add-a-provider.md")
    core = {name for name in vars(Provider) if not name.startswith("_")}
    for name, support in SUPPORT.items():
        parts = [part for part in support.protocol.__mro__ if part not in (object, Provider)]
        methods = {each for part in parts for each in vars(part) if not each.startswith("_")} - core
        assert set(re.findall(r"`(\w+_\w+|watch)`", documented[name][1])) >= methods, name


# -- links and examples ------------------------------------------------------------------------------------------------


def _slug(title: str) -> str:
    """A heading's anchor, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-")


def _anchors(page: Path) -> set[str]:
    text = FENCE.sub("", page.read_text())
    return {_slug(title) for title in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}


@pytest.mark.parametrize("page", [pytest.param(each, id=each.relative_to(ROOT).as_posix()) for each in PAGES])
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    text = re.sub(r"`[^`\n]+`", "", FENCE.sub("", page.read_text()))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.is_relative_to(ROOT), target
        assert there.exists(), target
        if anchor:
            assert anchor in _anchors(there), target


def test_index_leads_to_every_page() -> None:
    index = (ROOT / "docs" / "index.md").read_text()
    pages = {page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")}
    assert sorted(page for page in pages - {"index.md"} if f"({page})" not in index) == []


def policies() -> list[tuple[str, str]]:
    """(where, text) of each policy that a page shows, and of the example's file."""
    shown = [(page, text) for page, text in blocks("yaml") if re.search(r"^(burst|placement):", text, re.M)]
    return [*shown, ("examples/policy.yaml", (ROOT / "examples" / "policy.yaml").read_text())]


@pytest.mark.parametrize(("where", "text"), [pytest.param(*each, id=each[0]) for each in policies()])
def test_shown_policy_is_good(where: str, text: str) -> None:
    assert isinstance(parse(text, where), Policy)


@pytest.mark.parametrize(
    ("where", "text"), [pytest.param(*each, id=each[0]) for each in policies() if "rank:" in each[1]]
)
def test_shown_rank_puts_own_hosts_before_clouds(where: str, text: str) -> None:
    """Also a full own host before a cloud without a quota, whose free cores are as good as endless."""
    rank = parse(text, where).placement.rank
    assert rank is not None
    own = {"elastic": False, "cpu_free": 1.0, "cpu_total": 64.0}
    cloud = {"elastic": True, "cpu_free": 1e9, "cpu_total": 2.0, "price_hour": 0.001}
    judged = parse_expression(rank.text)
    here, there = judged.interpret(own, {}), judged.interpret(cloud, {})
    assert isinstance(here, float)
    assert isinstance(there, float)
    assert here > there


@pytest.mark.parametrize(
    "path", [pytest.param(each, id=each.name) for each in sorted((ROOT / "examples").rglob("*.py"))]
)
def test_example_program_compiles(path: Path) -> None:
    compile(path.read_text(), str(path), "exec")


@pytest.mark.parametrize(("page", "text"), [pytest.param(*each, id=each[0]) for each in blocks("python")])
def test_shown_python_compiles(page: str, text: str) -> None:
    compile(text, page, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def test_picture_is_self_contained_and_says_what_it_shows() -> None:
    picture = (ROOT / "docs" / "images" / "way-of-a-vm.svg").read_text()
    assert "<title" in picture
    assert "prefers-color-scheme: dark" in picture
    assert not re.search(r"(href|src)=|url\((?!#)|<script|@import", picture)
