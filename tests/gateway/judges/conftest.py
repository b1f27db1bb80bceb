"""What the judges leave behind."""

from __future__ import annotations

import gc
import warnings

import pytest


@pytest.fixture(autouse=True)
def what_the_sdk_leaves_open():
    """azure-servicebus 7.15 leaves sockets of broken connections to the garbage collector: it gets them here."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
