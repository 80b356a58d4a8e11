"""The public surface of the package, and what importing it costs."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import isthmus
from isthmus import nouns

PACKAGE = Path(isthmus.__file__).parent
PUBLIC: list[str] = vars(isthmus)["__all__"]
"""Type checkers are not shown it."""


def test_every_public_name_is_there_and_listed_once() -> None:
    assert len(PUBLIC) == len(set(PUBLIC))
    for name in PUBLIC:
        assert getattr(isthmus, name) is not None
    assert set(isthmus._HOME) | set(nouns.EXPORTS) == set(PUBLIC)
    assert set(PUBLIC) <= set(dir(isthmus))
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        _ = isthmus.Nonsense


PROMISED = {
    "APIError",
    "AccessKey",
    "AccessKeyCreated",
    "Client",
    "ConfigurationError",
    "Conflict",
    "ConnectionFailed",
    "Event",
    "Flavor",
    "Forbidden",
    "Gateway",
    "GatewayCreated",
    "Host",
    "Image",
    "InternalError",
    "InvalidRequest",
    "IsthmusError",
    "KeyPair",
    "Network",
    "NotFound",
    "Operation",
    "OperationFailed",
    "OperationState",
    "OperationTimeout",
    "Peer",
    "Policy",
    "PolicyCheck",
    "Project",
    "Reservation",
    "Role",
    "Site",
    "Status",
    "Subnet",
    "Token",
    "TokenCreated",
    "Unauthenticated",
    "Unavailable",
    "UnexpectedAnswer",
    "VM",
    "VMState",
    "Why",
    "__version__",
}
"""What was ever public: a name that leaves breaks somebody's program. A new noun's names are those of its row."""


def test_no_name_that_was_ever_public_is_gone() -> None:
    assert PROMISED - set(PUBLIC) == set()


def test_type_checkers_see_the_names_that_there_are() -> None:
    """They read the imports, and cannot run what makes the names at run time."""
    assert reexported(nouns) == set(nouns.EXPORTS)
    assert reexported(isthmus) == set(isthmus._HOME)


def reexported(module: Any) -> set[str]:
    """The names that a file imports for type checkers in the form that hands them on (``X as X``, PEP 484)."""
    tree = ast.parse(Path(module.__file__).read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return {alias.name for node in imports for alias in node.names if alias.asname == alias.name}


def test_every_error_is_an_isthmus_error() -> None:
    errors = [getattr(isthmus, n) for n in PUBLIC if isinstance(getattr(isthmus, n), type)]
    errors = [e for e in errors if issubclass(e, Exception)]
    assert len(errors) == 14
    assert all(issubclass(e, isthmus.IsthmusError) for e in errors)


def test_the_tree_of_errors_is_drawn_as_it_is() -> None:
    from isthmus.client import _errors

    drawn = set(re.findall(r"(?:\+-- |^    )([A-Z]\w+)", _errors.__doc__ or "", re.MULTILINE))
    real = {n for n, v in vars(_errors).items() if isinstance(v, type) and issubclass(v, Exception)}
    assert drawn == real


def modules_after(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split("\n")[-2].split())


def test_importing_the_package_loads_nothing_slow() -> None:
    assert not modules_after("import isthmus") & {"pydantic", "httpx2", "rich", "typer"}


def test_the_list_of_commands_loads_nothing_slow() -> None:
    loaded = modules_after("from isthmus.cli.main import main\nassert main(['--help']) == 0")
    assert not loaded & {"pydantic", "httpx2", "rich", "fastapi", "sqlalchemy", "api", "broker", "lab", "vpn"}


def test_the_http_library_is_imported_in_exactly_one_module() -> None:
    users = [
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if re.search(r"^\s*(import|from) httpx2", path.read_text(), re.MULTILINE)
    ]
    assert users == ["client/_http.py"]


def test_the_package_says_that_it_is_typed() -> None:
    assert (PACKAGE / "py.typed").exists()
