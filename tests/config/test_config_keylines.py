"""On which line each key stands."""

from __future__ import annotations

import json
import tomllib
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from renewer.config.keylines import KeyPath, key_lines


def test_tables_keys_and_array_items_are_found() -> None:
    text = "\n".join(
        [
            "# a comment = 1",
            "[daemon]  # [not.a.table]",
            'log_level = "info"',
            "",
            "[servicebus.main]",
            'connection_string = "Endpoint=sb://x;#[no]"',
            "[[session]]",
            'entity = "orders"',
            'labels = { team = "a", "or\\u0064er" = "b" }',
            "[[session]]",
            "  entity = 'x'",
            "[session.labels]",
            'team = "b"',
            '[fabric."my name"]',
            'token = "t"',
        ]
    )
    lines = key_lines(text)
    assert lines == {
        ("daemon",): 2,
        ("daemon", "log_level"): 3,
        ("servicebus",): 5,
        ("servicebus", "main"): 5,
        ("servicebus", "main", "connection_string"): 6,
        ("session",): 7,
        ("session", 0): 7,
        ("session", 0, "entity"): 8,
        ("session", 0, "labels"): 9,
        ("session", 0, "labels", "team"): 9,
        ("session", 0, "labels", "order"): 9,
        ("session", 1): 10,
        ("session", 1, "entity"): 11,
        ("session", 1, "labels"): 12,
        ("session", 1, "labels", "team"): 13,
        ("fabric",): 14,
        ("fabric", "my name"): 14,
        ("fabric", "my name", "token"): 15,
    }


def test_strings_over_many_lines_hide_nothing_and_invent_nothing() -> None:
    text = "\n".join(
        [
            'a = """',
            "b = 1",
            "[c]",
            '""\\"""" # x',
            "d = '''",
            "e = 1",
            "'''''",
            "f = [",
            "  1, # g = 2",
            '  { h = "]" },',
            "]",
            "i.j = 1979-05-27 07:32:00",
        ]
    )
    assert tomllib.loads(text)["a"].endswith('"""')
    assert key_lines(text) == {
        ("a",): 1,
        ("d",): 5,
        ("f",): 8,
        ("f", 0): 9,
        ("f", 1): 10,
        ("f", 1, "h"): 10,
        ("i",): 12,
        ("i", "j"): 12,
    }


def test_a_document_too_deep_for_the_stack_is_no_trouble() -> None:
    lines = key_lines("a = 1\nb = " + "[" * 100_000 + "]" * 100_000)
    assert lines[("a",)] == 1
    assert lines[("b",)] == 2


@settings(deadline=None)
@given(st.text(alphabet="ab[]{}=.\"'#\n, \\", max_size=60))
def test_odd_but_valid_documents_are_scanned_to_their_end(text: str) -> None:
    try:
        parsed = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    assert set(key_lines(text)) == _paths(parsed)


_names = st.text(alphabet="abAB-_ .#\"'\\[]=é\n", min_size=0, max_size=5)
_texts = st.text(alphabet="ab #=[]{},\"'\\\n", max_size=8)
_values = st.recursive(
    st.one_of(_texts, st.integers(), st.booleans(), st.floats(allow_nan=False, allow_infinity=False)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_names, inner, max_size=3)),
    max_leaves=6,
)


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(key)} = {_inline(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list):
        return "[ # comment ]\n" + "".join(f"  {_inline(item)} ,\n" for item in value) + "]"
    if isinstance(value, str) and "'''" not in value and not value.endswith("'"):
        return f"'''\n{value}'''"
    return json.dumps(value)


def _paths(value: Any, path: KeyPath = ()) -> set[KeyPath]:
    found = {path} if path else set()
    items: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        found |= _paths(item, (*path, key))
    return found


@settings(deadline=None)
@given(
    st.dictionaries(_names, _values, max_size=3),
    st.dictionaries(_names, st.dictionaries(_names, _values, max_size=3), max_size=3),
    st.lists(st.dictionaries(_names, _values, max_size=3), max_size=3),
)
def test_the_scanner_finds_what_the_parser_finds(
    top: dict[str, Any], tables: dict[str, dict[str, Any]], items: list[dict[str, Any]]
) -> None:
    top.pop("items", None)
    tables = {name: table for name, table in tables.items() if name not in top and name != "items"}
    parts = [f"{json.dumps(key)} = {_inline(value)}" for key, value in top.items()]
    for name, table in tables.items():
        parts.append(f"[ {json.dumps(name)} ]")
        parts.extend(f"{json.dumps(key)}={_inline(value)} # c" for key, value in table.items())
    for item in items:
        parts.append("[[ items ]]")
        parts.extend(f"\t{json.dumps(key)} = {_inline(value)}" for key, value in item.items())
    text = "\n".join(parts)
    lines = key_lines(text)
    assert set(lines) == _paths(tomllib.loads(text))
    for path, line in lines.items():
        if isinstance(path[-1], str):
            written = text.split("\n")[line - 1]
            assert json.dumps(path[-1]) in written or "items" in written
