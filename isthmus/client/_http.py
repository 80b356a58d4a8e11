"""The only module that knows the HTTP library: requests, retries, and errors turned into ours."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar
from urllib.parse import urlsplit

import httpx2
from pydantic import BaseModel, ValidationError

from isthmus.client._errors import APIError, ConfigurationError, ConnectionFailed, UnexpectedAnswer, api_error
from isthmus.client._settings import Settings
from isthmus.schema import Error

Transport = httpx2.BaseTransport
"""What carries requests; a test gives its own (``MockTransport``)."""

M = TypeVar("M", bound=BaseModel)
Query = Mapping[str, str | int | float | bool | Sequence[str] | None]

_ATTEMPTS = 4
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0


class Connection:
    """One broker, over HTTP.

    A call that may be repeated is repeated up to three times after a connection error or a 503, with pauses
    that double from 0.1 s and a jitter of half; a ``Retry-After`` in seconds is respected up to 5 s. A POST may
    be repeated because all of its attempts carry the same ``Idempotency-Key``.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        timeout: float,
        transport: Transport | None,
        user_agent: str,
        context: object,
        sleep: Callable[[float], None] = time.sleep,
        random: Callable[[], float],
        new_key: Callable[[], str],
    ) -> None:
        self.url = settings.url
        self._context = {"client": context}
        self._timeout = timeout
        self._sleep = sleep
        self._random = random
        self._new_key = new_key
        headers = {"User-Agent": user_agent, "Accept": "application/json"}
        if settings.token:
            try:
                settings.token.encode("ascii")
            except UnicodeEncodeError:
                raise ConfigurationError(
                    "the token holds a character no token has", code="bad_token"
                ) from None
            headers["Authorization"] = f"Bearer {settings.token.strip()}"
        self._http = httpx2.Client(
            base_url=settings.url,
            headers=headers,
            timeout=timeout,
            transport=transport,
            verify=_verify(settings) if transport is None else False,
            trust_env=not _is_loopback(settings.url),  # no proxy leads to this machine itself
        )

    def close(self) -> None:
        """Drop the connections."""
        self._http.close()

    def get(self, model: type[M], path: str, query: Query | None = None, *, wait: float = 0) -> M:
        """GET. ``wait`` (seconds) is how long the broker may hold its answer back, on top of the timeout."""
        return self._parse(model, self._send("GET", path, query=query, wait=wait))

    def post(
        self,
        model: type[M],
        path: str,
        body: BaseModel | None = None,
        *,
        key: str | None = None,
        repeat: bool = True,
        wait: float = 0,
        query: Query | None = None,
    ) -> M:
        """POST under an idempotency key: the caller's, or a fresh one.

        ``repeat=False``: it is not sent again once the broker may have seen it. ``wait``: how many seconds the
        broker may take on top of the timeout.
        """
        headers = {"Idempotency-Key": key or self._new_key()}
        answer = self._send("POST", path, query=query, body=body, headers=headers, repeat=repeat, wait=wait)
        return self._parse(model, answer)

    def put(self, model: type[M], path: str, body: BaseModel) -> M:
        """PUT."""
        return self._parse(model, self._send("PUT", path, body=body))

    def patch(self, model: type[M], path: str, body: BaseModel) -> M:
        """PATCH, for changes that are the same when repeated."""
        return self._parse(model, self._send("PATCH", path, body=body))

    def delete(self, path: str) -> None:
        """DELETE that is answered with nothing."""
        self._send("DELETE", path)

    def delete_for(self, model: type[M], path: str, *, query: Query | None = None) -> M:
        """DELETE that starts something and answers with it."""
        return self._parse(model, self._send("DELETE", path, query=query))

    def _send(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: BaseModel | None = None,
        headers: Mapping[str, str] | None = None,
        wait: float = 0,
        repeat: bool = True,
    ) -> httpx2.Response:
        params = _params(query or {})
        content = None if body is None else body.model_dump_json(exclude_unset=True).encode()
        sent = dict(headers or {})
        if content is not None:
            sent["Content-Type"] = "application/json"
        for attempt in range(1, _ATTEMPTS + 1):
            last = attempt == _ATTEMPTS
            try:
                answer = self._http.request(
                    method, path, params=params, content=content, headers=sent, timeout=self._timeout + wait
                )
            except httpx2.TransportError as error:
                # A connection that never came about has carried nothing: any call may be repeated then.
                unsent = isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.PoolTimeout)
                if last or _certificate(error) or not (repeat or unsent):
                    raise self._unreachable(error) from error
                self._sleep(self._pause(attempt))
                continue
            except httpx2.InvalidURL as error:
                raise ConfigurationError(f"{self.url}{path}: {error}", code="bad_url") from error
            if answer.status_code == 503 and repeat and not last:
                self._sleep(self._pause(attempt, answer.headers.get("Retry-After")))
                continue
            if answer.status_code == 404 and method == "DELETE" and attempt > 1 and not answer.is_success:
                refusal = self._refusal(answer)
                # An earlier attempt did it and its answer was lost.
                if refusal.code.endswith("_not_found"):
                    return httpx2.Response(204, request=answer.request)
                raise refusal
            if not answer.is_success:
                raise self._refusal(answer)
            return answer
        raise AssertionError("the last attempt returns or raises")

    def _pause(self, attempt: int, retry_after: str | None = None) -> float:
        if retry_after is not None and retry_after.isdigit():
            return min(float(retry_after), _LONGEST_PAUSE_S)
        pause: float = _FIRST_PAUSE_S * 2 ** (attempt - 1)
        return pause * (0.5 + self._random())

    def _unreachable(self, error: httpx2.TransportError) -> ConnectionFailed:
        reason = str(error) or type(error).__name__
        if _certificate(error):
            hint = "name the CA that signed the broker's certificate with --ca or ISTHMUS_CA"
        elif isinstance(error, httpx2.TimeoutException):
            hint = "the broker is slow or a firewall drops the packets; the timeout can be raised"
        else:
            hint = "check that `isthmus serve` runs there, and the address in ISTHMUS_URL or --url"
        return ConnectionFailed(
            f"cannot reach the broker at {self.url}: {reason}", code="unreachable", hint=hint
        )

    def _refusal(self, answer: httpx2.Response) -> APIError | UnexpectedAnswer:
        try:
            error = Error.model_validate_json(answer.content).error
        except ValidationError:
            return self._unexpected(answer, f"HTTP {answer.status_code}")
        return api_error(answer.status_code, error.code, error.message, error.hint, error.details)

    def _parse(self, model: type[M], answer: httpx2.Response) -> M:
        try:
            return model.model_validate_json(answer.content, context=self._context)
        except ValidationError as error:
            where = ".".join(str(part) for part in error.errors()[0]["loc"])
            what = f"{error.errors()[0]['msg']}{' at ' + where if where else ''}"
            raise self._unexpected(answer, what) from error

    def _unexpected(self, answer: httpx2.Response, what: str) -> UnexpectedAnswer:
        return UnexpectedAnswer(
            f"{answer.request.url} did not answer as a broker does: {what}",
            code="unexpected_answer",
            hint="check the address (the native API listens on 8770 by default) and proxies on the way",
        )


def _params(query: Query) -> list[tuple[str, str | int | float | bool | None]]:
    pairs: list[tuple[str, str | int | float | bool | None]] = []
    for name, value in query.items():
        if value is None or value is False:
            continue
        if value is True:
            pairs.append((name, "1"))
        elif isinstance(value, str | int | float):
            pairs.append((name, value))
        else:
            pairs.extend((name, item) for item in value)
    return pairs


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")


def _verify(settings: Settings) -> ssl.SSLContext | bool:
    if not settings.url.startswith("https:"):
        return False  # nothing to verify, and loading the system's CAs takes as long as a request
    try:
        return ssl.create_default_context(cafile=settings.ca)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(
            f"cannot use the CA file {settings.ca}: {error}",
            code="bad_ca",
            hint="it must hold PEM certificates",
        ) from error


def _certificate(error: BaseException | None) -> bool:
    """Whether a refused certificate is behind the error."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError) or "CERTIFICATE_VERIFY_FAILED" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
