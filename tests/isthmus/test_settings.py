"""Which broker the client speaks to, and as whom."""

from __future__ import annotations

from pathlib import Path

import pytest

import isthmus
from isthmus.client._settings import load_settings


def home(tmp_path: Path, text: str) -> dict[str, str]:
    folder = tmp_path / ".config" / "isthmus"
    folder.mkdir(parents=True)
    (folder / "client.toml").write_text(text)
    return {"HOME": str(tmp_path)}


FILE = 'url = "https://file:8770"\ntoken = "ist_file"\nca = "/file/ca.pem"\n'


def test_the_file_is_used_when_nothing_else_is_said(tmp_path: Path) -> None:
    settings = load_settings(None, None, None, home(tmp_path, FILE))
    assert (settings.url, settings.token, settings.ca) == ("https://file:8770", "ist_file", "/file/ca.pem")


def test_arguments_win_over_the_environment_and_it_over_the_file(tmp_path: Path) -> None:
    environ = home(tmp_path, FILE) | {"ISTHMUS_TOKEN": "ist_env", "ISTHMUS_CA": "/env/ca.pem"}
    settings = load_settings(None, None, "/arg/ca.pem", environ)
    assert (settings.url, settings.token, settings.ca) == ("https://file:8770", "ist_env", "/arg/ca.pem")


def test_the_token_of_the_file_is_never_sent_to_another_broker(tmp_path: Path) -> None:
    environ = home(tmp_path, FILE) | {"ISTHMUS_URL": "https://other:8770"}
    settings = load_settings(None, None, None, environ)
    assert (settings.url, settings.token, settings.ca) == ("https://other:8770", None, None)


def test_the_same_broker_named_again_keeps_its_token(tmp_path: Path) -> None:
    assert load_settings("https://file:8770/", None, None, home(tmp_path, FILE)).token == "ist_file"


def test_without_any_broker_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(isthmus.ConfigurationError) as caught:
        load_settings(None, None, None, {"HOME": str(tmp_path)})
    assert caught.value.code == "no_url"
    assert "isthmus init" in caught.value.hint


@pytest.mark.parametrize("url", ["broker:8770", "ftp://broker", "http://", "8770"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(isthmus.ConfigurationError, match="not the address of a broker"):
        load_settings(url, "t", None, {})


@pytest.mark.parametrize("text", ["url = ", "url = 5", "\xff"])
def test_a_broken_file_is_named(tmp_path: Path, text: str) -> None:
    environ = home(tmp_path, "")
    (tmp_path / ".config/isthmus/client.toml").write_bytes(text.encode("latin-1"))
    with pytest.raises(isthmus.ConfigurationError, match=r"client\.toml"):
        load_settings(None, None, None, environ)


def test_a_ca_file_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("not a certificate")
    client = isthmus.Client("https://broker:8770", "t", str(tmp_path / "ca.pem"), environ={})
    with pytest.raises(isthmus.ConfigurationError, match=r"ca\.pem"):
        client.status()


def test_a_token_with_a_strange_character_is_refused_before_it_is_sent() -> None:
    with pytest.raises(isthmus.ConfigurationError, match="token"):
        isthmus.Client("http://broker:8770", "ist_é", environ={}).status()
