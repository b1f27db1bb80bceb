"""Registries against a plain dict: whatever is done, in whatever order, and however often it is opened anew."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from renewer.core.model import Result
from renewer.errors import RegistryError
from renewer.ports import Batch, Entry, EntryKind
from tests.registry.registry_rig import STORES, whole

_IDS = st.sampled_from(["a", "b", "c", "d"])
_KINDS = st.sampled_from(list(EntryKind))
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
_ENTRIES = st.builds(
    Entry, _KINDS, _IDS, st.integers(-(2**63) + 1, 2**63 - 1), st.dictionaries(st.text(), _JSON, max_size=3)
)
_RESULTS = st.builds(
    Result,
    st.sampled_from(["json", "bytes", "none"]),
    st.none() | st.text(),
    st.binary(max_size=40),
    st.none() | st.text(),
)
_BATCHES = st.builds(
    Batch,
    puts=st.lists(_ENTRIES, max_size=4),
    deletes=st.lists(st.tuples(_KINDS, _IDS), max_size=3),
    results=st.dictionaries(_IDS, _RESULTS, max_size=3),
)


@dataclass
class Model:
    entries: dict[tuple[EntryKind, str], tuple[int, Any]] = field(default_factory=dict)
    results: dict[str, Result] = field(default_factory=dict)
    generation: int = 0

    def write(self, batch: Batch) -> None:
        for key in batch.deletes:
            self.entries.pop(key, None)
        for kind, id_ in batch.deletes:
            if kind is EntryKind.OPERATION:
                self.results.pop(id_, None)
        for entry in batch.puts:
            self.entries[entry.kind, entry.id] = (entry.number, entry.document)
        for id_, result in batch.results.items():
            if (EntryKind.OPERATION, id_) in self.entries:
                self.results[id_] = result


@pytest.mark.parametrize("name", list(STORES))
def test_a_registry_does_what_a_dict_would_do(name: str) -> None:
    class Machine(RuleBasedStateMachine):
        @initialize()
        def begin(self) -> None:
            self.directory = tempfile.TemporaryDirectory()
            self.runner = asyncio.Runner()
            self.reach = STORES[name](Path(self.directory.name))
            self.registry = self.reach()
            self.model = Model()
            self.open()

        def open(self) -> None:
            opened = self.runner.run(self.registry.open())
            self.model.generation += 1
            assert opened.generation == self.model.generation
            assert opened.set_aside is None
            found = {(entry.kind, entry.id): (entry.number, entry.document) for entry in opened.entries}
            assert found == self.model.entries
            for kind in EntryKind:
                numbers = [entry.number for entry in opened.entries if entry.kind is kind]
                assert numbers == sorted(numbers)

        @rule(batch=_BATCHES)
        def write(self, batch: Batch) -> None:
            self.runner.run(self.registry.write(batch))
            self.model.write(batch)

        @rule(batch=_BATCHES)
        def fail_to_write(self, batch: Batch) -> None:
            bad = Entry(EntryKind.LEASE, "bad", 1, {"": b""})
            with pytest.raises(RegistryError):
                self.runner.run(
                    self.registry.write(Batch(puts=[*batch.puts, bad], deletes=batch.deletes, results=batch.results))
                )

        @rule()
        def restart(self) -> None:
            self.runner.run(self.registry.close())
            self.registry = self.reach()
            self.open()

        @rule()
        def open_again(self) -> None:
            self.open()

        @rule(id_=_IDS)
        def read_result(self, id_: str) -> None:
            assert self.runner.run(whole(self.registry, id_)) == self.model.results.get(id_)

        @invariant()
        def no_file_is_left_behind(self) -> None:
            results = Path(self.directory.name) / "results"
            if results.exists():
                large = [result for result in self.model.results.values() if result.size > 16]
                assert len(list(results.iterdir())) == len(large)

        def teardown(self) -> None:
            if hasattr(self, "runner"):
                self.runner.run(self.registry.close())
                self.runner.close()
                self.directory.cleanup()

    run_state_machine_as_test(Machine, settings=settings(settings(), stateful_step_count=20))
