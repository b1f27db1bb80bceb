"""On which line of a TOML document each key stands. `tomllib` tells values alone.

The document is known to be valid, so the scanner only has to find its way: it steps over values, and remembers where
each key, table header and array item begins.
"""

from __future__ import annotations

import bisect
import contextlib
import re
import tomllib
from typing import Final

KeyPath = tuple[str | int, ...]
"""The way to a value: names of keys, and numbers of array items from 0."""

_TRIVIA: Final = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_BLANK: Final = re.compile(r"[ \t]*")
_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
_QUOTED: Final = re.compile(r'"(?:[^"\\\n]|\\.)*"' + r"|'[^'\n]*'")
_LONG_QUOTED: Final = re.compile(
    r'"""(?:[^"\\]|\\.|"{1,2}(?!"))*"{3,5}' + r"|'''(?:[^']|'{1,2}(?!'))*'{3,5}", re.DOTALL
)
_SCALAR: Final = re.compile(r"[^,\]}#\n]+")


def key_lines(text: str) -> dict[KeyPath, int]:
    """The line, from 1, of every key, table and array item of a valid TOML document."""
    scanner = _Scanner(text)
    # A document nested so deep that it exhausts the stack keeps the lines found up to there.
    with contextlib.suppress(RecursionError):
        scanner.document()
    return scanner.lines


class _Scanner:
    def __init__(self, text: str) -> None:
        self.lines: dict[KeyPath, int] = {}
        self._text = text
        self._pos = 0
        self._line_ends = [match.start() for match in re.finditer("\n", text)]
        self._last_item: dict[KeyPath, int] = {}

    def document(self) -> None:
        table: KeyPath = ()
        while self._step(_TRIVIA) is not None and self._pos < len(self._text):
            line = self._line()
            if self._text.startswith("[[", self._pos):
                self._pos += 2
                table = self._next_item(self._keys())
                self._pos += 2
            elif self._text.startswith("[", self._pos):
                self._pos += 1
                table = self._resolve(self._keys())
                self._pos += 1
            else:
                self._pair(table)
                continue
            self._note(table, line)

    def _pair(self, table: KeyPath) -> None:
        line = self._line()
        path = table
        for key in self._keys():
            path = (*path, key)
            self._note(path, line)
        self._pos += 1  # the equals sign
        self._step(_BLANK)
        self._value(path)

    def _value(self, path: KeyPath) -> None:
        opening = self._text[self._pos : self._pos + 1]
        if opening == "[":
            self._pos += 1
            self._array(path)
        elif opening == "{":
            self._pos += 1
            while not self._closed("}"):
                self._pair(path)
        elif all(self._step(pattern) is None for pattern in (_LONG_QUOTED, _QUOTED, _SCALAR)):
            self._pos += 1  # no valid document comes here; an invalid one must not hold us

    def _array(self, path: KeyPath) -> None:
        number = 0
        while not self._closed("]"):
            item = (*path, number)
            self._note(item, self._line())
            self._value(item)
            number += 1

    def _closed(self, bracket: str) -> bool:
        """Step over trivia and one comma; whether the bracket, stepped over too, or the text's end came next."""
        self._step(_TRIVIA)
        if self._text.startswith(",", self._pos):
            self._pos += 1
            self._step(_TRIVIA)
        if self._text.startswith(bracket, self._pos):
            self._pos += 1
            return True
        return self._pos >= len(self._text)

    def _keys(self) -> list[str]:
        keys: list[str] = []
        while True:
            self._step(_BLANK)
            quoted = self._step(_QUOTED)
            if quoted is not None:
                keys.append(tomllib.loads(f"key = {quoted}")["key"])
            else:
                keys.append(self._step(_BARE_KEY) or "")
            self._step(_BLANK)
            if not self._text.startswith(".", self._pos):
                return keys
            self._pos += 1

    def _resolve(self, keys: list[str]) -> KeyPath:
        """The path that a header means: an array of tables stands for its last item."""
        path: KeyPath = ()
        for key in keys:
            path = (*path, key)
            if path in self._last_item:
                path = (*path, self._last_item[path])
        return path

    def _next_item(self, keys: list[str]) -> KeyPath:
        array = (*self._resolve(keys[:-1]), keys[-1])
        self._last_item[array] = self._last_item.get(array, -1) + 1
        return (*array, self._last_item[array])

    def _note(self, path: KeyPath, line: int) -> None:
        for length in range(1, len(path) + 1):
            self.lines.setdefault(path[:length], line)

    def _line(self) -> int:
        return bisect.bisect_left(self._line_ends, self._pos) + 1

    def _step(self, pattern: re.Pattern[str]) -> str | None:
        match = pattern.match(self._text, self._pos)
        if match is None:
            return None
        self._pos = match.end()
        return match[0]
