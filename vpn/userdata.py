"""User data of two authors in one text: the user's, and the script that joins the private network.

cloud-init reads a MIME multi-part archive, each part with the type of its contents
(https://cloudinit.readthedocs.io/en/latest/explanation/format.html).
"""

from __future__ import annotations

import hashlib
from email import message_from_string
from email.charset import BASE64, Charset
from email.generator import Generator
from email.message import Message
from io import StringIO

LIMIT_BYTES = 16384
"""What EC2 takes, before base64 (RunInstances, ``UserData``)."""

JOIN_PART = "00-isthmus-join"
"""cloud-init runs shell parts in the order of their names: ours before ``part-001``."""

_TYPES = (
    ("#!", "x-shellscript"),
    ("#cloud-config-archive", "cloud-config-archive"),
    ("#cloud-config", "cloud-config"),
    ("#cloud-config-jsonp", "cloud-config-jsonp"),
    ("#cloud-boothook", "cloud-boothook"),
    ("#part-handler", "part-handler"),
    ("#include-once", "x-include-once-url"),
    ("#include", "x-include-url"),
    ("## template: jinja", "jinja2"),
)


class UserDataError(ValueError):
    """User data that cannot be sent, in words for the user."""


def multipart(user_script: str, bootstrap_script: str) -> str:
    """Both in one text; the bootstrap script alone when the user has none. Equal inputs give equal texts.

    ``user_script`` may be a script (``#!``), ``#cloud-config`` or any other format of cloud-init, or already an
    archive, whose parts are kept. Raises UserDataError when the format is not known or the whole is longer
    than LIMIT_BYTES.
    """
    if not user_script.strip():
        return _limited(bootstrap_script, 0)
    digest = hashlib.sha256(f"{user_script}\0{bootstrap_script}".encode()).hexdigest()
    archive = Message()
    archive["MIME-Version"] = "1.0"
    archive["Content-Type"] = f'multipart/mixed; boundary="isthmus-{digest[:32]}"'
    archive.attach(_part("x-shellscript", JOIN_PART, bootstrap_script))
    for part in _user_parts(user_script):
        archive.attach(part)
    written = StringIO()
    # Without mangle_from_=False a script's line that begins with "From " would get a ">" before it.
    Generator(written, mangle_from_=False, maxheaderlen=0).flatten(archive)
    return _limited(written.getvalue(), len(user_script.encode()))


def _user_parts(text: str) -> list[Message]:
    if text.lstrip().lower().startswith(("content-type:", "mime-version:")):
        parsed = message_from_string(text.lstrip())
        payload = parsed.get_payload()
        if not parsed.is_multipart() or not isinstance(payload, list):
            raise UserDataError(
                "user data starts like a MIME archive, and has no parts; see cloud-init's formats"
            )
        return [part for part in payload if isinstance(part, Message)]
    for start, subtype in _TYPES:
        first = text.split("\n", 1)[0].rstrip()
        if first == start or (start in ("#!", "## template: jinja") and first.startswith(start)):
            return [_part(subtype, "part-001", text)]
    raise UserDataError(
        f"user data begins with {text[:20]!r}; "
        "cloud-init takes a script (#!...), #cloud-config, or a MIME archive"
    )


def _part(subtype: str, filename: str, text: str) -> Message:
    part = Message()
    part["MIME-Version"] = "1.0"
    part["Content-Disposition"] = f'attachment; filename="{filename}"'
    part["Content-Type"] = f"text/{subtype}"
    if text.isascii():
        part["Content-Transfer-Encoding"] = "7bit"
        part.set_payload(text)
    else:
        charset = Charset("utf-8")
        charset.body_encoding = BASE64
        part.set_payload(text.encode(), charset)
    return part


def _limited(text: str, user_bytes: int) -> str:
    size = len(text.encode())
    if size > LIMIT_BYTES:
        raise UserDataError(
            f"user data of {size} bytes is over the {LIMIT_BYTES} that EC2 takes; "
            f"shorten your own {user_bytes} bytes by {size - LIMIT_BYTES} or fetch them at boot with #include"
        )
    return text
