"""User data of the user and ours, as cloud-init will read it."""

from __future__ import annotations

from email import message_from_string

import pytest

from vpn.userdata import LIMIT_BYTES, UserDataError, multipart

JOIN = "#!/bin/sh\necho join\n"


def _parts(text: str) -> list[tuple[str, str | None, str]]:
    archive = message_from_string(text)
    assert archive.is_multipart()
    found = []
    for part in archive.get_payload():
        payload = part.get_payload(decode=True)  # type: ignore[union-attr]
        assert isinstance(payload, bytes)
        found.append((part.get_content_type(), part.get_filename(), payload.decode()))  # type: ignore[union-attr]
    return found


def test_without_user_data_the_script_stands_alone() -> None:
    assert multipart("", JOIN) == JOIN
    assert multipart(" \n", JOIN) == JOIN


@pytest.mark.parametrize(
    ("text", "content_type"),
    [
        ("#!/bin/sh\necho mine\nFrom here on\n", "text/x-shellscript"),
        ("#!/usr/bin/env python3\nprint(1)\n", "text/x-shellscript"),
        ("#cloud-config\npackages: [nginx]\n", "text/cloud-config"),
        ("#cloud-config\nname: Zoë\n", "text/cloud-config"),
        ("#include\nhttp://192.0.2.1/x\n", "text/x-include-url"),
        ("#include-once\nhttp://192.0.2.1/x\n", "text/x-include-once-url"),
        ("#cloud-boothook\n#!/bin/sh\n", "text/cloud-boothook"),
        ("## template: jinja\n#cloud-config\n", "text/jinja2"),
    ],
)
def test_the_users_part_keeps_its_type_and_every_character(text: str, content_type: str) -> None:
    ours, theirs = _parts(multipart(text, JOIN))
    assert ours == ("text/x-shellscript", "00-isthmus-join", JOIN)
    assert theirs == (content_type, "part-001", text)


def test_our_script_sorts_before_the_users() -> None:
    names = [name for _, name, _ in _parts(multipart("#!/bin/sh\n", JOIN))]
    assert names == sorted(names, key=str)


def test_an_archive_keeps_its_parts_and_gets_ours() -> None:
    theirs = multipart("#cloud-config\n{}\n", "#!/bin/sh\necho first\n")
    types = [kind for kind, _, _ in _parts(multipart(theirs, JOIN))]
    assert types == ["text/x-shellscript", "text/x-shellscript", "text/cloud-config"]


def test_equal_inputs_give_equal_texts() -> None:
    assert multipart("#cloud-config\n{}\n", JOIN) == multipart("#cloud-config\n{}\n", JOIN)


@pytest.mark.parametrize("text", ["hello", "#cloud-confi\n", "MIME-Version: 1.0\n\nno parts"])
def test_user_data_that_cloud_init_would_not_run_is_refused(text: str) -> None:
    with pytest.raises(UserDataError, match="user data"):
        multipart(text, JOIN)


def test_too_much_user_data_is_refused_with_the_size() -> None:
    with pytest.raises(UserDataError, match=f"over the {LIMIT_BYTES} that EC2 takes"):
        multipart("#!/bin/sh\n" + "#" * LIMIT_BYTES, JOIN)
