"""What the item APIs take and give: checked request fields, and the result that belongs to a request."""

from __future__ import annotations

import base64
import json
import re
from typing import TYPE_CHECKING
from uuid import uuid4

from renewer.emulator.fabric.wire import RefusalError

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_NAME = 256

_COLLECTION = re.compile(r"[a-zA-Z]{2,63}s\Z")
_ACRONYMS = {"kql": "KQL", "sql": "SQL", "ml": "ML", "graphQLApi": "GraphQLApi", "cosmosDb": "CosmosDB"}


def created_item(workspace_id: str, collection: str, document: Mapping[str, object]) -> dict[str, object]:
    """Return the item that a create request asks for. Raises `RefusalError` (400, or 404 for no collection)."""
    item_type = _item_type(collection)
    display_name = _text(document, "displayName", required=True)
    if item_type is None:
        item_type = _text(document, "type", required=True)
    item: dict[str, object] = {"id": str(uuid4()), "type": item_type, "displayName": display_name}
    description = _text(document, "description")
    if description is not None:
        item["description"] = description
    item["workspaceId"] = workspace_id
    folder_id = _text(document, "folderId")
    if folder_id is not None:
        item["folderId"] = folder_id
    _check_definition(document, required=False)
    return item


def definition(item_id: str) -> dict[str, object]:
    """Return an item's definition, as getDefinition gives it."""
    platform = {"metadata": {"type": "Notebook", "displayName": item_id}, "config": {"version": "2.0"}}
    return {
        "definition": {
            "parts": [
                _part("notebook-content.py", b"# Fabric notebook source\n"),
                _part(".platform", json.dumps(platform).encode()),
            ]
        }
    }


def check_new_definition(document: Mapping[str, object]) -> None:
    """Check the body of updateDefinition; raises `RefusalError` (400)."""
    _check_definition(document, required=True)


def display_name_of(document: Mapping[str, object]) -> str | None:
    """Return the displayName of a request's body where there is one, unchecked."""
    name = document.get("displayName")
    return name if isinstance(name, str) else None


def _item_type(collection: str) -> str | None:
    """`notebooks` → `Notebook`; None for `items`, where the body names the type."""
    if not _COLLECTION.match(collection):
        raise RefusalError(404, "EndpointNotFound", "There is no such collection of items")
    if collection == "items":
        return None
    singular = collection[:-3] + "y" if collection.endswith("ies") else collection[:-1]
    for lower, proper in _ACRONYMS.items():
        rest = singular[len(lower) :]
        if singular.startswith(lower) and (not rest or rest[0].isupper()):
            return proper + rest
    return singular[0].upper() + singular[1:]


def _text(document: Mapping[str, object], key: str, *, required: bool = False) -> str | None:
    value = document.get(key)
    if value is None and not required:
        return None
    if not isinstance(value, str) or (required and not value) or len(value) > MAX_NAME:
        wanted = f"a string of {'1' if required else '0'} to {MAX_NAME} characters"
        raise _invalid(f"{key} must be {wanted}")
    return value


def _check_definition(document: Mapping[str, object], *, required: bool) -> None:
    given = document.get("definition")
    if given is None and not required:
        return
    parts = given.get("parts") if isinstance(given, dict) else None
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        raise _invalid("definition must be an object with a list of parts")


def _invalid(what: str) -> RefusalError:
    return RefusalError(400, "InvalidInput", "The request has an invalid input", more_details=[("InvalidInput", what)])


def _part(path: str, payload: bytes) -> dict[str, object]:
    return {
        "path": path,
        "payload": base64.b64encode(payload).decode(),
        "payloadType": "InlineBase64",
    }
