"""Which scenario a request meets: by header, by script, by the name of the item, or the default."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import NewType

from renewer.emulator.fabric.scenario import BUILT_IN, DEFAULT, Scenario
from renewer.emulator.faults import ScriptError

SCENARIO_HEADER = "x-emulator-scenario"

MAX_DEFINED = 50
MAX_SCRIPTS = 1000

ScriptId = NewType("ScriptId", str)


@dataclass(slots=True)
class Script:
    """The next `times` requests whose path and displayName match meet this scenario."""

    id: ScriptId
    scenario: Scenario
    path: str
    display_name: str | None
    times: int | None
    used: int = 0


@dataclass(frozen=True, slots=True)
class Choice:
    """The scenario for one request, and the script that brought it, to be used up when the request is heard."""

    scenario: Scenario
    script: Script | None = None


class Director:
    """Knows every scenario by name and hands one to each request."""

    def __init__(self, default: Scenario = DEFAULT) -> None:
        self.default = default
        self._defined: dict[str, Scenario] = {}
        self._scripts: dict[ScriptId, Script] = {}
        self._next_id = 1

    def scenarios(self) -> dict[str, Scenario]:
        """Return every scenario that can be asked for by name."""
        return {self.default.name: self.default, **BUILT_IN, **self._defined}

    def scenario(self, name: str) -> Scenario:
        """Return the scenario of that name; raises `ScriptError` with the names that there are."""
        known = self.scenarios()
        if name not in known:
            raise ScriptError("scenario", f"there is none of that name; there are {', '.join(known)}")
        return known[name]

    def define(self, scenario: Scenario) -> None:
        """Make a scenario known by its name. Raises `ScriptError` for a built-in name and when there are too many."""
        if scenario.name in BUILT_IN or scenario.name == self.default.name:
            raise ScriptError("name", f"{scenario.name} is built in; choose another name")
        if scenario.name not in self._defined and len(self._defined) >= MAX_DEFINED:
            raise ScriptError("scenarios", f"{MAX_DEFINED} are defined already; remove one first")
        self._defined[scenario.name] = scenario

    def undefine(self, name: str) -> bool:
        """Forget a scenario that was defined; False when there is none of that name."""
        return self._defined.pop(name, None) is not None

    def script(
        self,
        scenario: Scenario | str,
        *,
        path: str = "*",
        display_name: str | None = None,
        times: int | None = 1,
    ) -> ScriptId:
        """Let the next `times` requests (None: all) meet a scenario, if path and displayName match the patterns."""
        if times is not None and times < 1:
            raise ScriptError("times", "must be 1 or more, or null for every request")
        if len(self._scripts) >= MAX_SCRIPTS:
            raise ScriptError("scripts", f"{MAX_SCRIPTS} are in force already; remove some first")
        chosen = self.scenario(scenario) if isinstance(scenario, str) else scenario
        script_id = ScriptId(f"script-{self._next_id}")
        self._next_id += 1
        self._scripts[script_id] = Script(script_id, chosen, path, display_name, times)
        return script_id

    def scripts(self) -> list[Script]:
        """Return the scripts in force, oldest first."""
        return [*self._scripts.values()]

    def remove(self, script_id: str) -> bool:
        """Take a script back; False when there is none of that id."""
        return self._scripts.pop(ScriptId(script_id), None) is not None

    def clear(self) -> None:
        """Take every script back."""
        self._scripts.clear()

    def choose(self, path: str, display_name: str | None, header: str | None) -> Choice:
        """Return the scenario for a request; raises `ScriptError` when the header names an unknown one."""
        if header is not None:
            return Choice(self.scenario(header))
        for script in self._scripts.values():
            if fnmatchcase(path, script.path) and (
                script.display_name is None or fnmatchcase(display_name or "", script.display_name)
            ):
                return Choice(script.scenario, script)
        return Choice(self._by_name(display_name or "") or self.default)

    def use(self, choice: Choice) -> None:
        """Count a request that was heard, not put off; a script that has had its times is gone."""
        script = choice.script
        if script is None:
            return
        script.used += 1
        if script.times is not None and script.used >= script.times:
            self._scripts.pop(script.id, None)

    def _by_name(self, display_name: str) -> Scenario | None:
        lowered = display_name.lower()
        known = self.scenarios()
        for name in sorted(known, key=len, reverse=True):
            if lowered.startswith(name) and not lowered[len(name) : len(name) + 1].isalnum():
                return known[name]
        return None
