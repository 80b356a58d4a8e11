"""What all nouns share: a collection of calls, and answers that know the client they came from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar
from urllib.parse import quote

from pydantic import BaseModel, PrivateAttr, ValidationError

from isthmus import nouns
from isthmus.client._errors import InvalidRequest
from isthmus.schema import Page
from isthmus.schema._base import Request
from isthmus.schema.error import problems

if TYPE_CHECKING:
    from isthmus.client._client import Client
    from isthmus.client._http import Query


class Bound(BaseModel):
    """Data of the broker joined with the client it came from, so that ``vm.stop()`` reads naturally."""

    _client: Client = PrivateAttr()

    def model_post_init(self, context: Any, /) -> None:
        """Take the client that pydantic hands down, also into nested answers."""
        if context:
            self._client = context["client"]

    def _take(self, fresh: BaseModel) -> Self:
        """Become what was read just now."""
        self.__dict__.update(fresh.__dict__)
        return self


class Resource(Bound):
    """One thing of a noun that has all the common verbs. Its id names it; its name does where it has no id."""

    @property
    def _calls(self) -> Any:
        return getattr(self._client, nouns.EXPORTS[type(self).__name__].plural)

    @property
    def _ref(self) -> str:
        ref: str = getattr(self, "id", None) or self.name  # type: ignore[attr-defined]
        return ref

    def refresh(self) -> Self:
        """Read it again."""
        return self._take(self._calls.get(self._ref))

    def delete(self) -> None:
        """Remove it, as its collection's ``delete`` does."""
        self._calls.delete(self._ref)


M = TypeVar("M", bound=BaseModel)


class Collection(Generic[M]):
    """The calls of one noun. ``list`` goes through all pages as it is iterated."""

    _path: ClassVar[str]
    _model: type[M]

    def __init__(self, client: Client) -> None:
        self._client = client
        self._http = client._http

    def _url(self, ref: str, *more: str) -> str:
        return "/".join((self._path, segment(ref), *(segment(part) for part in more)))

    def _get(self, ref: str) -> M:
        return self._http.get(self._model, self._url(ref))

    def _list(self, query: Query | None = None, path: str | None = None) -> Iterator[M]:
        page: Page[M]
        token: str | None = None
        while True:
            asked = {"limit": PAGE, **(query or {}), "page": token}
            page = self._http.get(Page[self._model], path or self._path, asked)  # type: ignore[name-defined]
            yield from page.items
            token = page.next
            if token is None:
                return


class Resources(Collection[M]):
    """The calls of a noun that has all the common verbs; ``create`` and what is its own are in its file."""

    def get(self, ref: str) -> M:
        """One, by its id or name. Raises NotFound."""
        return self._get(ref)

    def list(self, *, labels: Mapping[str, str] | None = None) -> Iterator[M]:
        """All that the caller may see, page by page. With ``labels``, those that carry all of them."""
        return self._list({"label": label_texts(labels)})

    def delete(self, ref: str) -> None:
        """Remove one, by its id or name. Raises NotFound, and Conflict while something needs it."""
        self._http.delete(self._url(ref))


def label_texts(labels: Mapping[str, str] | None) -> list[str]:
    """Labels as a query has them."""
    return [f"{key}={value}" for key, value in (labels or {}).items()]


def segment(ref: str) -> str:
    """An id or name as one segment of a path. Raises InvalidRequest for one that can name nothing."""
    if ref in ("", ".", ".."):
        raise InvalidRequest(
            f"{ref!r} is not a name or id", code="invalid_request", hint="give the name or the id"
        )
    return quote(ref, safe="")


PAGE = 1000
"""Items of a page: as many as the API gives, because each page costs a request."""

R = TypeVar("R", bound=Request)


def ask(model: type[R], **fields: Any) -> R:
    """A request of the fields that the caller gave (not None); the broker has the defaults.

    Raises InvalidRequest in the broker's own words and shape, without asking it.
    """
    try:
        return model(**{name: value for name, value in fields.items() if value is not None})
    except ValidationError as error:
        found = problems(error.errors())
        raise InvalidRequest(
            "; ".join(f"{problem['loc']}: {problem['message']}" for problem in found),
            code="invalid_request",
            hint="",
            details={"errors": found},
        ) from None
