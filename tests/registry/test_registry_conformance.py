"""What every registry does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
import pytest

from renewer.core.model import Result
from renewer.errors import RegistryError, UnstorableError
from renewer.ports import Batch, Entry, EntryKind
from tests.registry.registry_rig import (
    LARGE,
    SMALL,
    arrived,
    callback,
    contents,
    ids,
    in_use,
    lease,
    mode,
    operation,
    spooled,
    stored,
    whole,
)

if TYPE_CHECKING:
    from tests.registry.registry_rig import Reach

pytestmark = pytest.mark.anyio

BOTH_SIZES = pytest.mark.parametrize("result", [SMALL, LARGE], ids=["small", "large"])


async def test_a_new_registry_is_empty(reach: Reach) -> None:
    opened = await contents(reach())
    assert (opened.generation, list(opened.entries), opened.set_aside) == (1, [], None)


async def test_the_generation_grows_with_every_opening(reach: Reach) -> None:
    assert [(await contents(reach())).generation for _ in range(4)] == [1, 2, 3, 4]


async def test_what_was_written_is_there_after_a_restart(reach: Reach) -> None:
    entries = [lease("a", 1, state="held"), operation("b", 1, polls=3), callback("c", 1, url="http://x")]
    await stored(reach(), Batch(puts=entries))
    assert list((await contents(reach())).entries) == entries


async def test_what_was_written_is_there_when_the_same_object_is_opened_again(reach: Reach) -> None:
    registry = reach()
    await stored(registry, Batch(puts=[lease("a")]))
    assert ids(await contents(registry)) == ["a"]


async def test_opening_it_twice_begins_anew_and_loses_nothing(reach: Reach) -> None:
    registry = reach()
    await registry.open()
    await registry.write(Batch(puts=[lease("a")]))
    async with in_use(registry) as opened:
        assert (opened.generation, ids(opened)) == (2, ["a"])
        await registry.write(Batch(puts=[lease("b", 2)]))
    assert ids(await contents(registry)) == ["a", "b"]


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"nested": {"list": [1, 2.5, None, True, {"deep": []}]}},
        {"text": "Grüße, 世界 🎉 \u0000 \u2028 \" \\ '; DROP TABLE entries"},
        {"lone surrogate": "\ud800"},
        {"": "", "z": 1, "a": 2},
        {"number": 2**80, "small": 5e-324, "negative": -0.5},
        {"long": "x" * 300_000},
    ],
)
async def test_documents_come_back_as_they_were_given(reach: Reach, document: dict[str, Any]) -> None:
    await stored(reach(), Batch(puts=[Entry(EntryKind.LEASE, "a", 1, document)]))
    (entry,) = (await contents(reach())).entries
    assert entry.document == document
    assert list(entry.document) == list(document)


async def test_ids_may_be_any_text(reach: Reach) -> None:
    names = ["", " ", "Ü", "ü", "a'b\"c", "../../etc", "a\u0000b", "x" * 1_000, "%s", "🎉"]
    await stored(reach(), Batch(puts=[operation(name, number) for number, name in enumerate(names)]))
    assert ids(await contents(reach())) == names


async def test_each_kind_comes_in_the_order_of_its_numbers(reach: Reach) -> None:
    puts = [callback("c9", 9), lease("l10", 10), operation("o2", 2), lease("l9", 9), operation("o1", 2**60)]
    await stored(reach(), Batch(puts=puts), Batch(puts=[lease("l-1", -1), callback("c0", 0)]))
    opened = await contents(reach())
    for kind, wanted in (
        (EntryKind.LEASE, ["l-1", "l9", "l10"]),
        (EntryKind.OPERATION, ["o2", "o1"]),
        (EntryKind.CALLBACK, ["c0", "c9"]),
    ):
        assert [entry.id for entry in opened.entries if entry.kind is kind] == wanted


async def test_a_put_replaces_document_and_number(reach: Reach) -> None:
    await stored(reach(), Batch(puts=[lease("a", 1, old=1), lease("b", 2)]), Batch(puts=[lease("a", 3, new=1)]))
    assert list((await contents(reach())).entries) == [lease("b", 2), lease("a", 3, new=1)]


async def test_the_last_of_several_puts_of_one_thing_counts(reach: Reach) -> None:
    await stored(reach(), Batch(puts=[lease("a", 1, v=1), lease("a", 2, v=2)]))
    assert list((await contents(reach())).entries) == [lease("a", 2, v=2)]


async def test_the_same_id_may_be_of_each_kind(reach: Reach) -> None:
    entries = [lease("a"), operation("a"), callback("a")]
    await stored(reach(), Batch(puts=entries), Batch(deletes=[(EntryKind.OPERATION, "a")]))
    assert list((await contents(reach())).entries) == [lease("a"), callback("a")]


async def test_deleting_what_is_not_there_is_no_error(reach: Reach) -> None:
    await stored(reach(), Batch(puts=[lease("a")]), Batch(deletes=[(EntryKind.LEASE, "x"), (EntryKind.OPERATION, "a")]))
    assert ids(await contents(reach())) == ["a"]


async def test_deletes_come_before_puts(reach: Reach) -> None:
    registry = reach()
    async with in_use(registry):
        await registry.write(Batch(puts=[operation("a", 1, v=1)], results={"a": LARGE}))
        await registry.write(Batch(puts=[operation("a", 2, v=2)], deletes=[(EntryKind.OPERATION, "a")]))
        assert await registry.result("a") is None
    assert list((await contents(reach())).entries) == [operation("a", 2, v=2)]


async def test_an_id_that_is_not_even_text_is_not_there(reach: Reach) -> None:
    registry = reach()
    async with in_use(registry):
        await registry.write(Batch(deletes=[(EntryKind.OPERATION, "\ud800")], results={"\ud800": LARGE}))
        assert await registry.result("\ud800") is None


async def test_an_empty_batch_changes_nothing(reach: Reach) -> None:
    await stored(reach(), Batch(), Batch(puts=[lease("a")]), Batch())
    assert ids(await contents(reach())) == ["a"]


@BOTH_SIZES
async def test_a_result_is_kept_byte_for_byte(reach: Reach, result: Result) -> None:
    registry = reach()
    async with in_use(registry):
        await registry.write(Batch(puts=[operation("a")], results={"a": result}))
        assert await whole(registry, "a") == result
    again = reach()
    async with in_use(again):
        assert await whole(again, "a") == result


@pytest.mark.parametrize(
    "result",
    [Result("none"), Result("none", problem="too large"), Result("bytes", "text/plain; charset=\udc80", b"")],
)
async def test_a_result_without_a_body_is_a_result(reach: Reach, result: Result) -> None:
    registry = reach()
    async with in_use(registry):
        await registry.write(Batch(puts=[operation("a")], results={"a": result}))
        assert await whole(registry, "a") == result


async def test_a_result_that_comes_in_a_file_is_taken_over(reach: Reach) -> None:
    registry = reach()
    async with in_use(registry):
        result = arrived(registry)
        await registry.write(Batch(puts=[operation("a")], results={"a": result}))
        stored_one = await registry.result("a")
        assert stored_one is not None
        assert (stored_one.body, stored_one.size) == (b"", len(LARGE.body))
        assert [str(path) for path in spooled(registry)] == [stored_one.file]
    again = reach()
    async with in_use(again):
        assert await whole(again, "a") == LARGE
        await again.write(Batch(deletes=[(EntryKind.OPERATION, "a")]))
        assert spooled(again) == []


async def test_a_small_result_may_come_in_a_file_too(reach: Reach) -> None:
    registry = reach()
    async with in_use(registry):
        await registry.write(Batch(puts=[operation("a")], results={"a": arrived(registry, SMALL)}))
        assert await whole(registry, "a") == SMALL


@BOTH_SIZES
async def test_a_result_in_a_file_replaces_the_earlier_and_is_replaced(reach: Reach, result: Result) -> None:
    registry = reach()
    async with in_use(registry):
        await registry.write(Batch(puts=[operation("a")], results={"a": result}))
        for name in ("first", "second"):
            other = Result("bytes", None, name.encode() * 1000)
            await registry.write(Batch(results={"a": arrived(registry, other, name)}))
            assert await whole(registry, "a") == other
            assert len(spooled(registry)) == 1
        await registry.write(Batch(results={"a": SMALL}))
        assert await whole(registry, "a") == SMALL


async def test_the_file_of_a_result_that_nobody_has_room_for_goes(reach: Reach) -> None:
    registry = reach()
    async with in_use(registry):
        results = {"unknown": arrived(registry, name="a"), "forgotten": arrived(registry, name="b")}
        await registry.write(Batch(puts=[operation("forgotten")]))
        unwanted = arrived(registry, name="c").file
        deletes = [(EntryKind.OPERATION, "forgotten")]
        await registry.write(Batch(deletes=deletes, results=results, unwanted=[str(unwanted), "/nowhere/at/all"]))
        assert spooled(registry) == []


async def test_a_batch_that_failed_leaves_the_files_for_the_next_try(reach: Reach) -> None:
    registry = reach()
    async with in_use(registry):
        result, unwanted = arrived(registry), arrived(registry, name="unwanted")
        bad = Entry(EntryKind.LEASE, "bad", 1, {"bytes": b""})
        with pytest.raises(UnstorableError):
            await registry.write(
                Batch(puts=[operation("a"), bad], results={"a": result}, unwanted=[str(unwanted.file)])
            )
        assert [str(path) for path in spooled(registry)] == sorted([str(result.file), str(unwanted.file)])
        await registry.write(Batch(puts=[operation("a")], results={"a": result}, unwanted=[str(unwanted.file)]))
        assert await whole(registry, "a") == LARGE
        assert len(spooled(registry)) == 1


async def test_a_result_whose_file_somebody_removed_keeps_nothing_else_from_being_stored(reach: Reach) -> None:
    registry = reach()
    async with in_use(registry):
        result = arrived(registry)
        spooled(registry)[0].unlink()
        await registry.write(Batch(puts=[operation("a"), operation("b")], results={"a": result, "b": SMALL}))
        assert await whole(registry, "b") == SMALL
        with pytest.raises(RegistryError, match="result of operation a is gone, somebody removed its file"):
            await registry.result("a")
        await registry.write(Batch(deletes=[(EntryKind.OPERATION, "a")]))
        assert await registry.result("a") is None


async def test_what_comes_in_files_is_for_nobody_else_to_read(reach: Reach) -> None:
    registry = reach()
    async with in_use(registry):
        assert mode(registry.spool_dir()) == 0o700


async def test_no_result_is_none(reach: Reach) -> None:
    registry = reach()
    async with in_use(registry):
        await registry.write(Batch(puts=[operation("a"), lease("b")]))
        assert await registry.result("a") is None
        assert await registry.result("b") is None
        assert await registry.result("never heard of") is None


@BOTH_SIZES
async def test_a_result_can_be_written_after_its_operation_and_survives_its_updates(
    reach: Reach, result: Result
) -> None:
    registry = reach()
    async with in_use(registry):
        await registry.write(Batch(puts=[operation("a")]))
        await registry.write(Batch(results={"a": result}))
        await registry.write(Batch(puts=[operation("a", 1, state="succeeded")]))
        assert await whole(registry, "a") == result


@pytest.mark.parametrize(("first", "second"), [(SMALL, LARGE), (LARGE, SMALL), (LARGE, LARGE), (SMALL, SMALL)])
async def test_a_later_result_replaces_the_earlier(reach: Reach, first: Result, second: Result) -> None:
    registry = reach()
    second = Result(second.kind, "text/plain", second.body[::-1])
    async with in_use(registry):
        await registry.write(Batch(puts=[operation("a")], results={"a": first}))
        await registry.write(Batch(results={"a": second}))
        assert await whole(registry, "a") == second


@BOTH_SIZES
async def test_a_result_whose_body_is_elsewhere_leaves_the_stored_one(reach: Reach, result: Result) -> None:
    registry = reach()
    async with in_use(registry):
        await registry.write(Batch(puts=[operation("a"), operation("b")], results={"a": result}))
        await registry.write(Batch(results={"a": result.without_body(), "b": result.without_body()}))
        assert await whole(registry, "a") == result
        assert await registry.result("b") is None


@BOTH_SIZES
async def test_with_an_operation_goes_its_result(reach: Reach, result: Result) -> None:
    registry = reach()
    async with in_use(registry):
        await registry.write(Batch(puts=[operation("a"), operation("b")], results={"a": result, "b": result}))
        await registry.write(Batch(deletes=[(EntryKind.OPERATION, "a"), (EntryKind.LEASE, "b")]))
        assert await registry.result("a") is None
        assert await whole(registry, "b") == result
        await registry.write(Batch(puts=[operation("a")]))
        assert await registry.result("a") is None


@BOTH_SIZES
async def test_a_result_of_an_operation_that_is_not_there_is_not_kept(reach: Reach, result: Result) -> None:
    registry = reach()
    async with in_use(registry):
        await registry.write(Batch(puts=[lease("a")], results={"a": result, "x": result}))
        await registry.write(Batch(puts=[operation("a"), operation("x")]))
        assert await registry.result("a") is None
        assert await registry.result("x") is None


@pytest.mark.parametrize(
    "bad",
    [
        Entry(EntryKind.LEASE, "bad", 1, {"bytes": b""}),
        Entry(EntryKind.LEASE, "bad", 1, {"nan": float("nan")}),
        Entry(EntryKind.LEASE, "bad", 1, {"infinite": float("inf")}),
        Entry(EntryKind.LEASE, "bad", 2**63, {}),
        Entry(EntryKind.LEASE, "bad\ud800", 1, {}),
    ],
)
async def test_a_batch_with_something_that_cannot_be_stored_changes_nothing(reach: Reach, bad: Entry) -> None:
    registry = reach()
    async with in_use(registry):
        await registry.write(Batch(puts=[operation("a", 1, v=1)], results={"a": SMALL}))
        with pytest.raises(UnstorableError, match=r"lease .* cannot be stored"):
            await registry.write(
                Batch(
                    deletes=[(EntryKind.OPERATION, "a")],
                    puts=[operation("a", 1, v=2), bad],
                    results={"a": LARGE},
                )
            )
        assert await whole(registry, "a") == SMALL
    assert list((await contents(reach())).entries) == [operation("a", 1, v=1)]


async def test_changing_a_document_later_changes_nothing_that_is_stored(reach: Reach) -> None:
    registry = reach()
    document = {"list": [1]}
    async with in_use(registry):
        await registry.write(Batch(puts=[Entry(EntryKind.LEASE, "a", 1, document)]))
        document["list"].append(2)
    opened = await contents(registry)
    opened.entries[0].document["list"].append(3)
    assert list((await contents(registry)).entries) == [lease("a", 1, list=[1])]


async def test_a_registry_that_is_not_open_says_so(reach: Reach) -> None:
    registry = reach()
    for use in (lambda: registry.write(Batch(puts=[lease("a")])), lambda: registry.result("a")):
        with pytest.raises(RegistryError, match=r"not open: call open\(\) first"):
            await use()
    await registry.open()
    await registry.close()
    with pytest.raises(RegistryError, match="not open"):
        await registry.write(Batch(puts=[lease("a")]))
    assert ids(await contents(registry)) == []


async def test_closing_is_never_an_error(reach: Reach) -> None:
    registry = reach()
    await registry.close()
    await registry.open()
    await registry.close()
    await registry.close()


async def test_a_write_whose_caller_is_cancelled_is_made_whole_or_not_at_all(reach: Reach) -> None:
    registry = reach()
    async with in_use(registry):
        for round_ in range(20):
            number = round_ * 2
            with anyio.CancelScope() as scope:
                if round_ % 2:
                    scope.cancel()
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(
                        registry.write, Batch(puts=[lease(str(number), number), lease(str(number + 1), number + 1)])
                    )
                    await anyio.lowlevel.checkpoint()
                    scope.cancel()
            await registry.write(Batch(puts=[operation("still works")]))
    found = {entry.number for entry in (await contents(reach())).entries if entry.kind is EntryKind.LEASE}
    assert all((number ^ 1) in found for number in found)


async def test_closing_works_for_a_caller_who_is_cancelled(reach: Reach) -> None:
    registry = reach()
    await registry.open()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await registry.close()
    assert (await contents(reach())).generation == 2
