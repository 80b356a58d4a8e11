"""The config file: what it says wins over defaults, the environment over it, and mistakes are told at their place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from broker.settings import SettingsError, load


@pytest.fixture
def config(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "isthmus.toml"
        path.write_text(text)
        return path

    return write


def test_empty_file_gives_defaults_and_its_own_folder_as_data_directory(
    config: Callable[[str], Path], tmp_path: Path
) -> None:
    settings = load(config(""))
    assert settings.data_dir == tmp_path
    assert settings.listen.native_port == 8770
    assert settings.database_url == f"sqlite:///{tmp_path / 'isthmus.sqlite3'}"


def test_environment_wins_over_the_file(
    config: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ISTHMUS_LISTEN__NATIVE_PORT", "9000")
    assert load(config("[listen]\nnative_port = 8000\nec2_port = 8001\n")).listen.native_port == 9000


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("[listen]\nhost = 127.0.0.1\n", "2:", "texts are in quotes"),
        ("[listen]\n\n  native_prot = 8770\n", "3:3: ", "did you mean native_port?"),
        ("[listen]\nnative_port = 99999\n", "2:1: ", "listen.native_port: Input should be less than"),
        ('[lisen]\nhost = "x"\n', "1:1: ", "did you mean listen?"),
        ('[log]\nlevel = "loud"\n', "2:1: ", "log.level"),
        ("[timing]\nfoo = 1\n", "2:1: ", "there are: reconcile_s"),
        ('listen.hots = "x"\n', "1:1: ", "did you mean host?"),
    ],
)
def test_mistake_is_told_with_file_line_column_and_mend(
    config: Callable[[str], Path], text: str, place: str, words: str
) -> None:
    path = config(text)
    with pytest.raises(SettingsError) as told:
        load(path)
    assert str(told.value).startswith(f"{path}:{place}")
    assert words in str(told.value)


def test_mistake_in_the_environment_is_not_blamed_on_a_line(
    config: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ISTHMUS_LOG__LEVEL", "loud")
    with pytest.raises(SettingsError, match=r"or the environment: log\.level"):
        load(config(""))


def test_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="isthmus init"):
        load(tmp_path / "isthmus.toml")
