"""docs/events.md says what the code says, and what it cannot say is an error."""

from __future__ import annotations

import ast

import pytest

from docs import eventlist, eventmeanings


def read(source: str) -> tuple[str, str, set[str]]:
    tree = ast.parse(source)
    call = next(node for node in ast.walk(tree) if isinstance(node, ast.Call) and "log" in ast.unparse(node.func))
    return eventlist.read_call(call, tree, "here")


def test_the_document_is_up_to_date() -> None:
    written = eventlist.DOCUMENT.read_text(encoding="utf-8")
    assert written == eventlist.document(), "`make events` writes it anew"


def test_a_call_is_read_with_its_level_and_fields() -> None:
    assert read("log.warning('throttled', target=t, detail=str(e))") == ("throttled", "warning", {"target", "detail"})
    assert read("log.exception('failed', id=i)") == ("failed", "error", {"exception", "id"})
    assert read("log.error('failed', exc_info=e)") == ("failed", "error", {"exception"})


def test_fields_that_a_function_makes_are_followed() -> None:
    source = "def fields(it):\n    return {'callback': it.id, 'type': it.type}\nlog.info('sent', **fields(it), n=1)\n"
    assert read(source) == ("sent", "info", {"callback", "type", "n"})


@pytest.mark.parametrize(
    "source",
    [
        "log.info(phrase)",
        "log.info(f'held {lease}')",
        "log.info('held %s', lease)",
        "log.info('held', **fields)",
        "log.info('held', **unknown(lease))",
        "log.critical('held')",
    ],
)
def test_a_call_that_cannot_be_read_is_an_error(source: str) -> None:
    with pytest.raises(eventlist.SourceError, match="here"):
        read(source)


@pytest.mark.parametrize("table", ["PHRASES", "EVENTS", "FIELDS", "REASONS", "FAILURES", "PARTS"])
def test_what_has_no_meaning_is_an_error(table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    known = dict(getattr(eventmeanings, table))
    known.pop(next(iter(known)))
    monkeypatch.setattr(eventmeanings, table, known)
    with pytest.raises(eventlist.SourceError):
        eventlist.document()


def test_a_meaning_of_nothing_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eventmeanings, "PHRASES", {**eventmeanings.PHRASES, "lease eaten": "By a grue."})
    with pytest.raises(eventlist.SourceError, match="lease eaten"):
        eventlist.document()


def test_a_lease_that_is_lost_is_told_with_its_reason() -> None:
    lost = eventlist.news_lines()["lease lost"]
    assert (lost.level, {"reason", "detail", "final"} <= (lost.always or set())) == ("error", True)
    assert eventlist.news_lines()["lease not renewed"].level == "debug or warning"
