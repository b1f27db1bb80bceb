"""Documents that the daemon sent, read without trust in what they hold."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from renewer.client.errors import ProtocolError


class Reader:
    """Takes fields of the right type out of a document; what is missing or of another type counts as absent.

    `what` it should be is for the error of one that is no object at all.
    """

    def __init__(self, document: object, what: str) -> None:
        if not isinstance(document, Mapping):
            raise ProtocolError(f"what answered is not a renewer of this version: {what} was expected")
        self.document: Mapping[str, Any] = document
        self._what = what

    def required(self, name: str) -> str:
        """A text that must be there. Raises `ProtocolError`."""
        text = self.text(name)
        if text is None:
            raise ProtocolError(f"what answered is not a renewer of this version: {self._what} has no {name}")
        return text

    def text(self, name: str) -> str | None:
        """A text."""
        value = self.document.get(name)
        return value if isinstance(value, str) else None

    def number(self, name: str) -> float | None:
        """A number."""
        value = self.document.get(name)
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None

    def count(self, name: str) -> int | None:
        """A whole number."""
        value = self.document.get(name)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def whole(self, name: str) -> int:
        """A whole number; 0 where there is none."""
        return self.count(name) or 0

    def moment(self, name: str) -> datetime | None:
        """An instant in UTC, which is what one without a time zone is taken for."""
        text = self.text(name)
        if text is None:
            return None
        try:
            at = datetime.fromisoformat(text)
        except ValueError:
            return None
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)

    def part(self, name: str) -> Reader | None:
        """An object."""
        value = self.document.get(name)
        return Reader(value, self._what) if isinstance(value, Mapping) else None

    def parts(self, name: str) -> list[Reader]:
        """A list of objects. Raises `ProtocolError` if one of them is none."""
        value = self.document.get(name)
        return [Reader(part, self._what) for part in value] if isinstance(value, list) else []

    def texts(self, name: str) -> dict[str, str]:
        """The texts in an object, by name."""
        value = self.document.get(name)
        return {k: v for k, v in value.items() if isinstance(v, str)} if isinstance(value, Mapping) else {}

    def counts(self, name: str) -> dict[str, int]:
        """The whole numbers in an object, by name."""
        value = self.document.get(name)
        return {k: v for k, v in value.items() if isinstance(v, int)} if isinstance(value, Mapping) else {}

    def list_of_texts(self, name: str) -> tuple[str, ...]:
        """The texts in a list."""
        value = self.document.get(name)
        return tuple(item for item in value if isinstance(item, str)) if isinstance(value, list) else ()
