"""Files with secrets in them: whether others than the daemon may read or change them. Blocking calls, all quick.

It works either way, so what is found is never a failure. The mode alone does not decide: a file in a directory that
others may not enter is safe, and so is one of a group that nobody else is in.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydantic import BaseModel

from renewer.cli.doctor.findings import Outcome, ok, warn

if TYPE_CHECKING:
    from renewer.config import Settings

SECRET_SETTINGS: Final = frozenset(
    {"certificate_file", "client_secret_file", "connection_string_file", "key_file", "tls_key_file", "token_file"}
)
"""Settings that name a file with a secret in it, in whichever section."""

PUBLIC_SETTINGS: Final = frozenset({"ca_file", "tls_cert_file"})
"""Settings that name a file which everybody may read; a certificate without `tls_key_file` has its key in it."""

_WRITTEN_IN_PLACE: Final = frozenset(name.removesuffix("_file") for name in SECRET_SETTINGS)


@dataclass(frozen=True, slots=True)
class SecretFile:
    """A file with a secret in it, and the setting that says so: ``servicebus.main.connection_string_file``."""

    setting: str
    path: Path


def secret_files(settings: Settings, config: Path | None) -> list[SecretFile]:
    """All of them, in the order of the settings; the configuration itself, where secrets are written in it."""
    found = list(_named(settings, ""))
    written = None if config is None else next(_written(_read(config), ""), None)
    return found if config is None or written is None else [SecretFile(written, config), *found]


def examine_secret_file(file: SecretFile) -> Outcome[None]:
    """Who may read or change it, besides its owner and the daemon."""
    path = file.path.absolute()
    try:
        about = path.stat()
        who = _strangers(path.resolve(), about)
    except OSError as error:
        # Whether it can be read was asked when the settings were loaded.
        return ok(f"{path}: {error.strerror}; not looked at")
    seen = f"{path}, {stat.S_IMODE(about.st_mode):04o}, owner {_user(about.st_uid)}, group {_group(about.st_gid)}"
    if who is None:
        return ok(f"{seen}: the daemon's alone")
    return warn(f"{seen}: {who}", _remedy(path))


def _strangers(path: Path, about: os.stat_result) -> str | None:
    mode = about.st_mode
    if mode & (stat.S_IROTH | stat.S_IWOTH) and _can_be_reached(path, None):
        return f"every user of this machine may {_may(mode, stat.S_IROTH, stat.S_IWOTH)} it"
    if mode & (stat.S_IRGRP | stat.S_IWGRP) and _can_be_reached(path, about.st_gid):
        others = _others_in(about.st_gid, {_user(about.st_uid), _user(os.geteuid()), "root"})
        if others:
            return f"{_listed(others)} may {_may(mode, stat.S_IRGRP, stat.S_IWGRP)} it, as members of the group"
    return None


def _can_be_reached(path: Path, gid: int | None) -> bool:
    """Whether everybody, or the members of a group, may enter every directory above it."""
    for folder in path.parents:
        about = folder.stat()
        by_group = gid is not None and about.st_gid == gid and bool(about.st_mode & stat.S_IXGRP)
        if not by_group and not about.st_mode & stat.S_IXOTH:
            return False
    return True


def _others_in(gid: int, known: set[str]) -> list[str]:
    """Who is in a group, besides those who are known; a user whose own group it is, and nobody else's, counts as known.

    That is the daemon: the group of a service, or of a Pod, is for whoever it runs as.
    """
    try:
        members = set(grp.getgrgid(gid).gr_mem)
    except KeyError:
        return []
    own = {user.pw_name for user in pwd.getpwall() if user.pw_gid == gid}
    return sorted((members | own if len(own) > 1 else members - own) - known)


def _remedy(path: Path) -> str:
    if (path.parent / "..data").is_symlink():
        # How a kubelet lays out what it mounts; the mode is that of the volume.
        return "give the volume defaultMode: 0440, and the Pod an fsGroup, if other containers or users can get there"
    return (
        f"chmod 0640 {path}, with a group that the daemon alone is in, or 0600 if it is the owner; who may have read "
        "it should not know it any longer: replace the secret"
    )


def _named(section: BaseModel, here: str) -> Iterator[SecretFile]:
    has_key_file = getattr(section, "tls_key_file", None) is not None
    for name in type(section).model_fields:
        value, setting = getattr(section, name), f"{here}{name}"
        if isinstance(value, Path) and (name in SECRET_SETTINGS or (name == "tls_cert_file" and not has_key_file)):
            yield SecretFile(setting, value)
        elif isinstance(value, BaseModel):
            yield from _named(value, f"{setting}.")
        elif isinstance(value, dict):
            for key, each in value.items():
                yield from _named(each, f"{setting}.{key}.") if isinstance(each, BaseModel) else ()
        elif isinstance(value, tuple):
            for number, each in enumerate(value):
                yield from _named(each, f"{setting}[{number}].") if isinstance(each, BaseModel) else ()


def _written(document: object, here: str) -> Iterator[str]:
    """The settings in a document that are secrets themselves."""
    if isinstance(document, list):
        for number, each in enumerate(document):
            yield from _written(each, f"{here.removesuffix('.')}[{number}].")
    elif isinstance(document, dict):
        for name, value in document.items():
            if name in _WRITTEN_IN_PLACE and isinstance(value, str):
                if not _is_of_an_emulator(document, value):
                    yield f"{here}{name}"
            else:
                yield from _written(value, f"{here}{name}.")


def _is_of_an_emulator(section: dict[str, object], secret: str) -> bool:
    # A token goes to plain http on this machine alone, where nothing but an emulator takes one.
    return "usedevelopmentemulator=true" in secret.lower() or str(section.get("base_url", "")).startswith("http://")


def _read(config: Path) -> object:
    try:
        return tomllib.loads(config.read_text("utf-8"))
    except (OSError, ValueError):
        return {}


def _may(mode: int, read: int, write: int) -> str:
    return " and ".join(word for word, bit in (("read", read), ("change", write)) if mode & bit)


def _listed(names: Iterable[str], most: int = 3) -> str:
    shown = list(names)
    more = f" and {len(shown) - most} more" if len(shown) > most else ""
    return ", ".join(shown[:most]) + more


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
