"""The boto3 client of one site, and the cloud's errors in the port's words."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    HTTPClientError,
    ParamValidationError,
    SSLError,
)
from botocore.exceptions import (
    ConnectionError as ConnectionFailed,
)
from botocore.parsers import ResponseParserError

from providers.ec2.options import Credentials, Options
from providers.port import (
    AuthenticationFailed,
    Conflict,
    InvalidSpec,
    NotFound,
    OutOfCapacity,
    ProviderError,
    QuotaExceeded,
    Unreachable,
    Unsupported,
)

ATTEMPTS = 2

# "Error codes for the Amazon EC2 API", EC2 Developer Guide.
_AUTHENTICATION = frozenset(
    {
        "AuthFailure",
        "SignatureDoesNotMatch",
        "UnauthorizedOperation",
        "InvalidClientTokenId",
        "MissingAuthenticationToken",
        "OptInRequired",
        "PendingVerification",
        "Blocked",
        "RequestExpired",
        "ExpiredToken",
    }
)
_CAPACITY = frozenset(
    {
        "InsufficientInstanceCapacity",
        "InsufficientHostCapacity",
        "InsufficientReservedInstanceCapacity",
        "InsufficientCapacity",
        "InsufficientFreeAddressesInSubnet",
    }
)
_QUOTA = frozenset(
    {
        "InstanceLimitExceeded",
        "VcpuLimitExceeded",
        "MaxSpotInstanceCountExceeded",
        "VolumeLimitExceeded",
        "AddressLimitExceeded",
        "ResourceLimitExceeded",
    }
)
_INVALID = frozenset(
    {"MissingParameter", "UnknownParameter", "Unsupported", "UnsupportedOperation", "OperationNotPermitted"}
)
_CONFLICT = frozenset({"IdempotentParameterMismatch", "InvalidIPAddress.InUse", "DependencyViolation"})


class Client:
    """One site's EC2 client. Safe to use from several threads; made at the first call.

    ``timeout_s`` bounds one call with its retries: each attempt may take ``timeout_s / ATTEMPTS``, of which a
    third at most for the connection.
    """

    def __init__(self, site: str, options: Options, credentials: Credentials, timeout_s: float) -> None:
        self.site = site
        self._options = options
        self._credentials = credentials
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._boto: Any = None

    def call(self, action: str, **parameters: Any) -> Any:
        """The answer to one EC2 action, named as boto3 names it (``describe_instances``)."""
        with self.errors(action):
            return getattr(self._client(), action)(**parameters)

    def pages(
        self, action: str, clock: Callable[[], float], *, size: int = 100, **parameters: Any
    ) -> Iterator[Any]:
        """Every page of a list, following NextToken. Raises Unreachable when the pages take too long in all."""
        until = clock() + self._timeout_s
        token = ""
        while True:
            page = self.call(action, MaxResults=size, **parameters, **({"NextToken": token} if token else {}))
            yield page
            token = page.get("NextToken") or ""
            if not token:
                return
            if clock() > until:
                raise Unreachable(f"{self.site}: the pages of {action} took more than {self._timeout_s:g} s")

    @contextmanager
    def errors(self, action: str) -> Iterator[None]:
        """Turns what boto3 raises into the port's exceptions, in words and with the cloud's code."""
        try:
            yield
        except ClientError as error:
            raise refusal(self.site, action, error) from error
        except SSLError as error:
            raise Unreachable(
                f"{self.site}: the endpoint's certificate is not trusted ({error}); "
                "give the certificate of its authority as option ca_file or ca_pem"
            ) from error
        except (HTTPClientError, ConnectionFailed) as error:
            raise Unreachable(f"{self.site}: no answer to {action}: {error}") from error
        except ResponseParserError as error:
            raise Unreachable(
                f"{self.site}: the endpoint's answer to {action} is not EC2's XML; does option endpoint name an EC2 API?"
            ) from error
        except ParamValidationError as error:
            raise InvalidSpec(f"{self.site}: {action} was not sent: {error}") from error
        except BotoCoreError as error:
            raise ProviderError(
                f"{self.site}: {action} failed: {error}", code=type(error).__name__
            ) from error

    def _client(self) -> Any:
        with self._lock:  # making a client is not thread-safe, using one is
            if self._boto is None:
                attempt_s = self._timeout_s / ATTEMPTS
                self._boto = boto3.session.Session(
                    aws_access_key_id=self._credentials.access_key_id,
                    aws_secret_access_key=self._credentials.secret_access_key,
                    aws_session_token=self._credentials.session_token or None,
                    region_name=self._options.region,
                ).client(
                    "ec2",
                    endpoint_url=self._options.endpoint or None,
                    verify=self._options.ca_file or None,
                    config=Config(
                        connect_timeout=min(5.0, attempt_s / 3),
                        read_timeout=attempt_s * 2 / 3,
                        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
                        max_pool_connections=16,
                        user_agent_extra="isthmus",
                        # The site's options alone say where calls go, not the broker's environment.
                        ignore_configured_endpoint_urls=True,  # type: ignore[call-arg]  # the stubs lag behind
                    ),
                )
            return self._boto

    def close(self) -> None:
        """Close the pooled connections."""
        with self._lock:
            if self._boto is not None:
                self._boto.close()
                self._boto = None


def refusal(site: str, action: str, error: ClientError) -> ProviderError:
    """The port's exception for an EC2 error answer; its text holds the cloud's words and code, never a secret."""
    code = str(error.response.get("Error", {}).get("Code", "")) or "Unknown"
    words = str(error.response.get("Error", {}).get("Message", "")).strip().rstrip(".") or "no message"
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    text = f"{site} refused {action}: {words} ({code})"
    if code in _AUTHENTICATION:
        # The cloud's own words may quote the signed request, session token included.
        return AuthenticationFailed(f"{site} refused the credentials for {action} ({code})", code=code)
    if code in _CAPACITY:
        return OutOfCapacity(text, code=code)
    if code in _QUOTA:
        return QuotaExceeded(text, code=code)
    if code.endswith((".NotFound", ".Malformed")) or code == "InvalidAMIID.Unavailable":
        return NotFound(text, code=code)
    if code == "InvalidAction":
        return Unsupported(text, code=code)
    if code in _CONFLICT:
        return Conflict(text, code=code)
    if code in _INVALID or code.startswith("Invalid"):
        return InvalidSpec(text, code=code)
    if status == 503 and code not in ("RequestLimitExceeded", "Throttling"):
        return Unreachable(text, code=code)
    return ProviderError(text, code=code)
