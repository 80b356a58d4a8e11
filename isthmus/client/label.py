"""Labels of anything that its users make."""

from __future__ import annotations

from collections.abc import Mapping

from isthmus import nouns, schema
from isthmus.client._errors import InvalidRequest
from isthmus.client._resource import Collection, ask


class Labels(Collection[schema.LabelSet]):
    """``client.labels``. ``noun`` says of what (``vm``, ``network``, ``subnet``...), ``ref`` of which: its name or id."""

    _path = "/v1/labels"
    _model = schema.LabelSet

    def of(self, noun: str, ref: str) -> dict[str, str]:
        """The labels of one thing. Raises NotFound."""
        return self._http.get(schema.LabelSet, self._place(noun, ref)).labels

    def update(self, noun: str, ref: str, labels: Mapping[str, str | None]) -> dict[str, str]:
        """Set labels, and take away those that are None; what is not named stays. All that it has afterwards."""
        body = ask(schema.LabelUpdate, labels=labels)
        return self._http.patch(schema.LabelSet, self._place(noun, ref), body).labels

    def _place(self, noun: str, ref: str) -> str:
        if noun not in nouns.LABELLED:
            raise InvalidRequest(
                f"{noun!r} carries no labels",
                code="invalid_request",
                hint=f"these do: {', '.join(nouns.LABELLED)}",
            )
        return self._url(noun, ref)
