"""What an instance is given to read at boot: the broker's user data, with the SSH keys to let in."""

from __future__ import annotations

import hashlib
import json
from email import message_from_string, policy
from email.message import Message
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText

from providers.port import InvalidSpec, VMSpec

LIMIT = 16_384
"""Bytes of user data before base64 ("Instance metadata and user data", EC2 User Guide)."""

_SUBTYPES = (
    ("#!", "x-shellscript"),
    ("#cloud-config", "cloud-config"),
    ("#include", "x-include-url"),
    ("#cloud-boothook", "cloud-boothook"),
    ("## template: jinja", "jinja2"),
)


def compose(spec: VMSpec) -> str:
    """The instance's user data: the spec's own, joined with its SSH keys as a MIME multipart archive of cloud-init.

    Equal specs give equal texts (EC2 refuses a repeated ClientToken with other parameters). Raises InvalidSpec
    above 16 KiB.
    """
    text = spec.user_data
    if spec.ssh_keys:
        text = _with_keys(text, spec.ssh_keys)
    size = len(text.encode())
    if size > LIMIT:
        raise InvalidSpec(
            f"the user data of {spec.name} is {size} bytes with what the broker adds; EC2 takes {LIMIT}"
        )
    return text


def _with_keys(user_data: str, keys: tuple[str, ...]) -> str:
    # JSON is YAML; merge_how lets the user's own cloud-config add keys instead of replacing these.
    config = {
        "ssh_authorized_keys": list(keys),
        "merge_how": [
            {"name": "list", "settings": ["append"]},
            {"name": "dict", "settings": ["recurse_list"]},
        ],
    }
    own = "#cloud-config\n" + json.dumps(config) + "\n"
    if not user_data:
        return own
    boundary = "==" + hashlib.sha256((own + user_data).encode()).hexdigest()[:32] + "=="
    archive = MIMEMultipart(boundary=boundary)
    archive.attach(_part(own))
    for part in _parts(user_data):
        archive.attach(part)
    return archive.as_string(policy=policy.compat32.clone(max_line_length=None))


def _parts(user_data: str) -> list[Message]:
    if user_data[:200].lower().startswith(("content-type: multipart", "mime-version:")):
        archive = message_from_string(user_data)
        if archive.is_multipart():
            return [part for part in archive.walk() if not part.is_multipart()]
    return [_part(user_data)]


def _part(text: str) -> Message:
    subtype = next((subtype for start, subtype in _SUBTYPES if text.startswith(start)), "")
    if not subtype:
        raise InvalidSpec(
            "the user data's kind is not known, so the SSH keys cannot be added to it: "
            "begin it with #! or #cloud-config, or make it a MIME multipart archive"
        )
    # Plain text wherever it can be, because a small guest may read no base64.
    part = MIMEText(text, subtype, "us-ascii" if text.isascii() else "utf-8")
    part.add_header("Content-Disposition", "attachment", filename=f"part.{subtype}")
    return part
