"""What a provider refuses, or fails at.

::

    ProviderError
    +-- Unreachable          no answer from the host or the cloud; try again later
    +-- AuthenticationFailed credentials refused
    +-- OutOfCapacity        the host or cloud has no room for it now; place it elsewhere
    +-- QuotaExceeded        an account limit; place it elsewhere
    +-- InvalidSpec          the request can never succeed as it is; do not retry
    +-- NotFound             the named thing does not exist at the provider
    +-- Conflict             something else holds the name, address or id
    +-- Unsupported          the provider does not declare that capability
"""

from __future__ import annotations


class ProviderError(Exception):
    """A provider's refusal or failure, in words for the VM's ``status_reason``.

    ``code`` is the provider's own error code where there is one (``InsufficientInstanceCapacity``).
    ``retryable``: the same call may succeed later without anybody changing anything.
    """

    retryable = True

    def __init__(self, message: str, *, code: str = "") -> None:
        super().__init__(message)
        self.code = code


class Unreachable(ProviderError):
    """No answer from the host or the cloud within the deadline."""


class AuthenticationFailed(ProviderError):
    """Credentials were refused."""

    retryable = False


class OutOfCapacity(ProviderError):
    """The host or cloud has no room for this VM now; another host may."""


class QuotaExceeded(ProviderError):
    """An account limit is reached; another site may have room."""


class InvalidSpec(ProviderError):
    """The request can never succeed as it is."""

    retryable = False


class NotFound(ProviderError):
    """The named thing does not exist at the provider."""

    retryable = False


class Conflict(ProviderError):
    """Something that is not ours holds the name, the address or the id."""

    retryable = False


class Unsupported(ProviderError):
    """The provider does not declare this capability."""

    retryable = False
