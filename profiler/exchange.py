"""Profiles as one file to hand to others: {"format": "cotenant-profiles", "version": 1, "profiles": [...]}.

A file that holds one profile as it is stored (STATE/profiles/NAME.json) is read too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from profiler.errors import RecordInvalid
from profiler.records import WorkloadProfile
from profiler.store import ProfileStore, profile_from_json, profile_to_json

FORMAT = "cotenant-profiles"
VERSION = 1  # of the list; each profile has its own schema_version
LIMIT_BYTES = 64 << 20


def profiles_to_json(profiles: Iterable[WorkloadProfile]) -> bytes:
    """Write profiles as one file."""
    stored = [json.loads(profile_to_json(one)) for one in profiles]
    return json.dumps({"format": FORMAT, "version": VERSION, "profiles": stored}, indent=1).encode() + b"\n"


def profiles_from_json(data: bytes) -> list[WorkloadProfile]:
    """Read such a file; raises RecordInvalid naming the profile and its field."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise RecordInvalid(f"no JSON: {error}") from error
    if not isinstance(content, dict):
        raise RecordInvalid(f"a {type(content).__name__} instead of an object with the field 'profiles'")
    if "profiles" not in content:
        return [_profile(content, "")]
    if content.get("format") != FORMAT or content.get("version") != VERSION:
        raise RecordInvalid(
            f"format is {content.get('format')!r} in version {content.get('version')!r}, "
            f"this reads {FORMAT!r} in version {VERSION}"
        )
    listed = content["profiles"]
    if not isinstance(listed, list):
        raise RecordInvalid(f"profiles: a {type(listed).__name__} instead of a list")
    found = [_profile(one, f"profiles.{number}.") for number, one in enumerate(listed)]
    names = [one.name for one in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise RecordInvalid(f"profiles: {', '.join(twice)} more than once")
    return found


def import_profiles(store: ProfileStore, profiles: Iterable[WorkloadProfile], *, replace: bool) -> None:
    """Store all, or, if one of a name that is taken may not be replaced, none."""
    wanted = list(profiles)
    known = set(store.names())
    taken = [one.name for one in wanted if one.name in known]
    if taken and not replace:
        raise RecordInvalid(
            f"{', '.join(taken)} exist already, nothing was imported: rename them in the file, or allow replacing "
            "them with --replace"
        )
    for one in wanted:
        store.save(one, replace=replace)


def _profile(content: Any, where: str) -> WorkloadProfile:
    try:
        return profile_from_json(json.dumps(content).encode())
    except RecordInvalid as error:
        raise RecordInvalid(f"{where}{error}") from error
