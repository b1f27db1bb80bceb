"""The words for how an operation stands, in status monitors and in provisioningState.

Three of them are final, whatever their case (Azure Resource Manager RPC, "ProvisioningState property"); everything
else, also what we have never heard of, means that it still runs.
"""

from __future__ import annotations

from enum import Enum


class Meaning(Enum):
    """What a word says."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"


_FINAL = {
    "succeeded": Meaning.SUCCEEDED,
    "failed": Meaning.FAILED,
    "canceled": Meaning.CANCELED,
    "cancelled": Meaning.CANCELED,
}
_RUNNING_WORDS = """
    accepted activating allocating attaching building canceling cancelling configuring copying created
    creating deallocating deleting deploying detaching disabling enabling executing exporting importing
    initializing inprogress migrating moving notstarted patching pending preparing processing provisioning
    queued registering removing resizing resolving restarting restoring running saving scaling scheduled
    started starting stopping submitted submitting syncing terminating transitioning unregistering updating
    upgrading validating waiting
"""
_RUNNING = frozenset(_RUNNING_WORDS.split())
"""What services were seen to say of something that runs. To be here spares a word the warning, and nothing else."""


def meaning_of(word: str) -> Meaning:
    """What a word says, whatever its case."""
    return _FINAL.get(word.lower(), Meaning.RUNNING)


def is_known(word: str) -> bool:
    """Whether we have heard this word before."""
    return word.lower() in _FINAL or is_known_running(word)


def is_known_running(word: str) -> bool:
    """Whether this word surely means that something still runs."""
    return word.lower() in _RUNNING
