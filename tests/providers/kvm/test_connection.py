"""Calls to a host have a deadline, and a hung host costs nobody else anything."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from providers.kvm import driver
from providers.kvm.connection import Connection
from providers.port import AuthenticationFailed, NotFound, OutOfCapacity, ProviderError, Unreachable


class FakeConnection:
    """What ``Connection`` needs of virConnect."""

    def __init__(self) -> None:
        self.alive = True
        self.answers = threading.Event()
        self.answers.set()

    def getLibVersion(self) -> int:
        self.answers.wait(30)
        return 9_000_000

    def isAlive(self) -> int:
        return int(self.alive)

    def close(self) -> None:
        self.alive = False


class BrokenPipe(driver.LibvirtError):
    def __init__(self) -> None:
        Exception.__init__(self, "Cannot recv data: Connection reset by peer")

    def get_error_code(self) -> int:
        return int(driver.api.VIR_ERR_SYSTEM_ERROR)


def connect(opened: list[FakeConnection], timeout_s: float = 5.0) -> Connection:
    def open_connection(_uri: str) -> FakeConnection:
        opened.append(FakeConnection())
        return opened[-1]

    return Connection("test:///", "node1", timeout_s, open_connection=open_connection)


def test_one_connection_serves_many_calls() -> None:
    opened: list[FakeConnection] = []
    connection = connect(opened)
    assert [connection.call(lambda _: 7) for _ in range(5)] == [7] * 5
    assert len(opened) == 1


def test_hung_host_costs_one_deadline_then_a_second_each_until_it_answers() -> None:
    opened: list[FakeConnection] = []
    connection = connect(opened, timeout_s=2.0)
    connection.call(lambda _: None)
    opened[0].answers.clear()
    with pytest.raises(Unreachable, match="no answer from libvirt within 2 s"):
        connection.call(lambda _: opened[0].answers.wait(30))
    begun = time.monotonic()
    with pytest.raises(Unreachable, match="has not answered a call for"):
        connection.call(lambda _: 7)
    assert time.monotonic() - begun < 1.9
    opened[0].answers.set()
    assert connection.call(lambda _: 7) == 7


def test_one_hung_guest_does_not_make_its_host_look_dead() -> None:
    connection = connect([], timeout_s=0.2)
    release = threading.Event()
    with pytest.raises(Unreachable, match=r"within 0\.2 s"):
        connection.call(lambda _: release.wait(30))
    assert connection.call(lambda _: 7) == 7
    release.set()


def test_slow_call_holds_up_no_other_call_of_the_host() -> None:
    connection = connect([])
    release = threading.Event()
    slow = connection.submit(lambda _: release.wait(30))
    assert connection.call(lambda _: 7) == 7
    release.set()
    assert connection.result(slow) is True


def test_stale_connection_is_replaced_and_the_call_repeated() -> None:
    opened: list[FakeConnection] = []
    connection = connect(opened)
    connection.call(lambda _: None)

    def action(open_connection: FakeConnection) -> int:
        if open_connection is opened[0]:
            raise BrokenPipe
        return 7

    assert connection.call(action) == 7
    assert len(opened) == 2


def test_fresh_connection_that_breaks_is_unreachable() -> None:
    calls = []

    def action(_: object) -> None:
        calls.append(1)
        raise BrokenPipe

    with pytest.raises(Unreachable, match="host node1: Cannot recv data"):
        connect([]).call(action)
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("code", "text", "kind"),
    [
        (driver.api.VIR_ERR_NO_DOMAIN, "Domain not found", NotFound),
        (driver.api.VIR_ERR_AUTH_FAILED, "authentication failed", AuthenticationFailed),
        (
            driver.api.VIR_ERR_SYSTEM_ERROR,
            "Cannot recv data: Permission denied (publickey)",
            AuthenticationFailed,
        ),
        (driver.api.VIR_ERR_SYSTEM_ERROR, "Host key verification failed.", AuthenticationFailed),
        (driver.api.VIR_ERR_SYSTEM_ERROR, "unable to connect to server: Connection refused", Unreachable),
        (driver.api.VIR_ERR_INTERNAL_ERROR, "cannot set up guest memory 'ram'", OutOfCapacity),
        (driver.api.VIR_ERR_SYSTEM_ERROR, "cannot fill file: No space left on device", OutOfCapacity),
        (driver.api.VIR_ERR_INTERNAL_ERROR, "qemu unexpectedly closed the monitor", ProviderError),
    ],
)
def test_libvirt_errors_become_the_ports(
    code: int,
    text: str,
    kind: type[ProviderError],
) -> None:
    class Refusal(driver.LibvirtError):
        def __init__(self) -> None:
            Exception.__init__(self, text)

        def get_error_code(self) -> int:
            return code

    error = driver.translate(Refusal(), "node1")
    assert type(error) is kind
    assert text in str(error)
    assert "node1" in str(error)
    assert error.code == f"libvirt-{code}"


def test_host_that_refuses_connections_is_unreachable_in_words(tmp_path: Path) -> None:
    connection = Connection(f"qemu+unix:///system?socket={tmp_path}/none", "node1", 10.0)
    with pytest.raises(Unreachable, match=r"host node1: .*does libvirtd run there"):
        connection.call(lambda _: None)


def test_connection_that_fails_without_words_is_no_answer() -> None:
    error = driver.translate(driver.LibvirtError("virConnectOpen() failed"), "node1")
    assert type(error) is Unreachable
    assert "does libvirtd run there" in str(error)
