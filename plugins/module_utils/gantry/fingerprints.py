# Copyright: the Gantry authors
"""Tell whether two environments share a secret, without either of them seeing the other's.

A fingerprint is a salted scrypt digest of a secret's value. The fingerprints of one environment are a dictionary that
is kept as ``inventories/ENV/fingerprints.yml``: ``{"salt": HEX, "secrets": {NAME: HEX}}``. Environments that were made
side by side share their salt, so that one digest for each secret compares it with all of them.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

# A shorter value could be guessed from its fingerprint, which may be public.
SHORTEST = 12


def new_salt() -> str:
    """Return a random salt, as hexadecimal digits."""
    return os.urandom(16).hex()


def digest(value: str, salt: str) -> str:
    """Return the scrypt digest of a secret.

    :param value: the secret.
    :param salt: hexadecimal digits, see :func:`new_salt`.
    :returns: 32 bytes as hexadecimal digits.
    """
    return hashlib.scrypt(value.encode(), salt=bytes.fromhex(salt), n=2**14, r=8, p=1, dklen=32).hex()


def digests(secrets: Mapping[str, str], salt: str) -> dict[str, str]:
    """Return the digest of each secret by name.

    :param secrets: values by name.
    :param salt: hexadecimal digits.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # hashlib.scrypt lets go of the interpreter lock
        return dict(zip(secrets, pool.map(lambda value: digest(value, salt), secrets.values()), strict=True))


def verify(value: str, fingerprint: str, salt: str) -> bool:
    """Return whether a fingerprint is the one of a secret, in constant time.

    :param value: the secret.
    :param fingerprint: hexadecimal digits, see :func:`digest`.
    :param salt: the salt that the fingerprint was made with.
    """
    return hmac.compare_digest(digest(value, salt), fingerprint)


def make(secrets: Mapping[str, str], salt: str) -> dict[str, Any]:
    """Return the fingerprints of an environment.

    :param secrets: values by name, see :func:`strings`; too short ones are left out, see :func:`too_short`.
    :param salt: hexadecimal digits.
    """
    long = {name: value for name, value in secrets.items() if len(value) >= SHORTEST}
    return {"salt": salt, "secrets": digests(long, salt)}


def too_short(secrets: Mapping[str, str]) -> list[str]:
    """Return the names of the secrets that a fingerprint would give away."""
    return [name for name, value in secrets.items() if len(value) < SHORTEST]


def stale(own: Mapping[str, str], fingerprints: Mapping[str, Any]) -> list[str]:
    """Return the names whose fingerprint is missing, left over or of another value.

    :param own: digests of the secrets as they are now, made with the salt of the fingerprints.
    :param fingerprints: the recorded ones.
    """
    recorded = fingerprints["secrets"]
    names = sorted(own.keys() | recorded.keys())
    return [name for name in names if not hmac.compare_digest(own.get(name, ""), recorded.get(name, ""))]


def shared(own: Mapping[str, str], fingerprints: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the pairs (own name, their name) of equal secrets.

    :param own: digests of own secrets, made with the salt of the fingerprints.
    :param fingerprints: the other environment's.
    """
    theirs = fingerprints["secrets"].items()
    return [(mine, name) for mine, value in own.items() for name, their in theirs if hmac.compare_digest(value, their)]


def vault_files(inventory: Path) -> list[Path]:
    """Return the files that hold an environment's secrets.

    :param inventory: the environment's folder, ``inventories/ENV``.
    """
    return sorted(file for folder in ("group_vars", "host_vars") for file in inventory.glob(f"{folder}/**/vault.yml"))


def read_vaults(inventory: Path, load: Callable[[Path], object]) -> dict[str, str]:
    """Return the secrets of an environment by name.

    :param inventory: the environment's folder; a secret that is not in its ``group_vars/all`` is named with its file.
    :param load: opens one file and returns its content, or raises.
    """
    secrets: dict[str, str] = {}
    for file in vault_files(inventory):
        place = file.parent.relative_to(inventory)
        prefix = "" if place == Path("group_vars/all") else f"{place}/"
        secrets.update((prefix + name, value) for name, value in strings(load(file)))
    return secrets


def strings(value: object, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield name and text of each string in a vault's content; nested ones are named ``outer.inner``.

    :param value: a dictionary, a list or a leaf of it; numbers and booleans are no secrets.
    :param name: the name of the value.
    """
    if isinstance(value, str):
        yield name, str(value)
    elif isinstance(value, (Mapping, list)):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, inner in items:
            yield from strings(inner, f"{name}.{key}" if name else str(key))
