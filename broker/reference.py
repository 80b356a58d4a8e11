"""Writes docs/reference/permissions.md from the table of permissions: ``python -m broker.reference > FILE``.

A test compares the file with what this says, so that the page cannot fall behind.
"""

from __future__ import annotations

from collections.abc import Iterator

from broker.access import PERMISSIONS, ROLES, permissions_of

_HEAD = """\
# Permissions

Written by `python -m broker.reference`; edit the table in `broker/access.py`, not this page.

Whoever asks has **grants**: each is a role in a project. A token or an access key carries one, and that of an admin counts in
every project. What is made goes to the project of the token. Every call of every face needs one permission of this
table; without it the answer is `forbidden`, and says which permission is missing and which role has it. What belongs
to a project where a caller has no grant is not there for it: `not_found`.

`isthmus auth can WHO ACTION WHAT` says whether somebody may do something and which grant decides it;
`isthmus auth permissions` prints this table. [Security](../explanation/security.md) says what each role can be trusted with.

| scope | where a grant must be for its role to count |
|---|---|
| `project` | in the project of the thing, or in the one where it is made |
| `any` | in any project: what is asked for belongs to none |
| `broker` | in every project: what is done concerns all of them |
| `gateway` | an agent's, for its own gateway |

Two permissions have a limit that is not in the table: nobody makes a token or an access key with a role that may more
than they may themselves, and nobody revokes such a one.
"""


def write() -> str:
    """The page."""
    return "\n".join([_HEAD, *_roles(), "", *_permissions()])


def _roles() -> Iterator[str]:
    yield "| role | permissions | |"
    yield "|---|---|---|"
    for role, line in ROLES.items():
        yield f"| `{role}` | {len(permissions_of(role))} | {line} |"


def _permissions() -> Iterator[str]:
    noun = ""
    for name, needed in sorted(PERMISSIONS.items()):
        if not name.startswith(f"{noun}."):
            if noun:
                yield ""
            noun = name.split(".")[0]
            yield f"## {noun}"
            yield ""
            yield "| permission | scope | roles | what it is |"
            yield "|---|---|---|---|"
        yield f"| `{name}` | {needed.scope} | {', '.join(needed.in_order)} | {needed.line} |"


if __name__ == "__main__":
    print(write())
