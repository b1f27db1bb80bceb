"""Reading an HTTP answer as ``curl -i`` prints it: status line, headers, an empty line, the body."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from renewer.cli.exitcodes import CommandError, ExitCode

_STATUS_LINE = re.compile(rb"HTTP/[0-9](?:\.[0-9])? ([0-9]{3})(?: [^\r\n]*)?\r?\n")
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n]*?)[ \t]*\r?\n")
_EMPTY = re.compile(rb"\r?\n|\Z")
_REMEDY = "give what `curl -si URL` prints"


@dataclass(frozen=True, slots=True)
class RawAnswer:
    """The last answer of a transcript; `body` is JSON where it can be read as such, else text, None where empty."""

    status: int
    headers: dict[str, str]
    body: Any


def parse_answer(raw: bytes, source: str) -> RawAnswer:
    """Read the last answer in `raw`: those before it are interim, a proxy's or redirects. Raises `CommandError`."""
    position, status = 0, 0
    headers: dict[str, str] = {}
    while (line := _STATUS_LINE.match(raw, position)) is not None:
        status, headers, position = int(line[1]), {}, line.end()
        while (header := _HEADER.match(raw, position)) is not None:
            name, value = header[1].decode("ascii"), header[2].decode("latin-1")
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
            position = header.end()
        end = _EMPTY.match(raw, position)
        if end is None:
            number = raw.count(b"\n", 0, position) + 1
            raise CommandError(f"{source}: line {number} is no header of an HTTP answer; {_REMEDY}", ExitCode.DATA)
        position = end.end()
    if not status:
        raise CommandError(f"{source}: must begin with a status line such as HTTP/1.1 202; {_REMEDY}", ExitCode.DATA)
    return RawAnswer(status, headers, parse_body(raw[position:], source))


def parse_body(raw: bytes, source: str) -> Any:
    """A body as JSON if it is JSON, else as text; None if there is none. Raises `CommandError`."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise CommandError(f"{source}: the body is not text", ExitCode.DATA) from None
    if not text.strip():
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
