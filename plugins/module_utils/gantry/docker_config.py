# Copyright: the Gantry authors
"""What Docker reads from files: the engine's options, and the logins at registries.

Only the standard library is used, so that modules can import this before the engine is installed. Nothing here reads or
writes; the modules ``docker_daemon`` and ``docker_registries`` do.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from typing import Any

# What the engine takes over from its file on SIGHUP, in Docker 20.10 and later. It documents a few more (runtimes,
# plugins, features), of which not every version takes over every change: for those, a restart is certain.
RELOADABLE = frozenset(
    {
        "debug",
        "insecure-registries",
        "labels",
        "live-restore",
        "max-concurrent-downloads",
        "max-concurrent-uploads",
        "max-download-attempts",
        "registry-mirrors",
        "shutdown-timeout",
    }
)
# Another value of these points the engine at another, empty store.
STORE = frozenset({"data-root", "storage-driver", "userns-remap"})

_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{1,5})?")


class DockerConfigError(Exception):
    """A file or value that Docker would not understand; the message says which and what to do."""


def parse(text: str, path: str) -> dict[str, Any]:
    """Return the content of one of Docker's JSON files; an empty file has none.

    :param text: the file's text.
    :param path: the file, for the message.
    :raises DockerConfigError: when it is not a JSON object.
    """
    try:
        content = json.loads(text) if text.strip() else {}
    except ValueError as error:
        raise DockerConfigError(f"{path} is not JSON: {error}; correct or remove it on the host") from error
    if not isinstance(content, dict):
        raise DockerConfigError(f"{path} is not a JSON object; correct or remove it on the host")
    return content


def render(content: Mapping[str, Any]) -> str:
    """Return the text of one of Docker's JSON files, the same for the same content.

    >>> print(render({"b": True, "a": []}), end="")
    {
      "a": [],
      "b": true
    }
    """
    return json.dumps(content, indent=2, sort_keys=True) + "\n"


def changed_options(before: Mapping[str, Any], after: Mapping[str, Any]) -> set[str]:
    """Return the names of the options that differ, those that come or go included.

    >>> sorted(changed_options({"debug": True, "bip": "a", "mtu": 1}, {"debug": False, "mtu": 1, "ipv6": True}))
    ['bip', 'debug', 'ipv6']
    """
    absent = object()
    return {name for name in {*before, *after} if before.get(name, absent) != after.get(name, absent)}


def needed_action(loaded: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Return what makes a running engine take over *wanted*: ``none``, ``reload`` or ``restart``.

    An option that is taken out needs a restart, because a reload leaves it as it was.

    :param loaded: the options that the engine runs with.

    >>> needed_action({"debug": True}, {"debug": True})
    'none'
    >>> needed_action({"debug": True}, {"debug": False})
    'reload'
    >>> needed_action({"debug": True}, {}), needed_action({}, {"debug": True, "log-driver": "local"})
    ('restart', 'restart')
    """
    changed = changed_options(loaded, wanted)
    if not changed:
        return "none"
    return "reload" if changed <= RELOADABLE and changed <= set(wanted) else "restart"


def certificate_path(host: str) -> str:
    """Return where the engine looks for the CA certificate of a registry.

    :param host: the registry's host name, and its port unless it is 443.
    :raises DockerConfigError: when *host* is not a host name with an optional port.

    >>> certificate_path("registry.example.org:5000")
    '/etc/docker/certs.d/registry.example.org:5000/ca.crt'
    """
    if not _HOST.fullmatch(host):
        raise DockerConfigError(f"'{host}' is not a registry: give its host name, and :PORT unless it is 443")
    return f"/etc/docker/certs.d/{host}/ca.crt"


def with_login(config: Mapping[str, Any], host: str, username: str, password: str) -> dict[str, Any]:
    """Return Docker's client configuration with a login at one registry; everything else in it is kept.

    :param config: the content of ``config.json``.
    :param host: the registry's host name, and its port unless it is 443.
    :param username: the account.
    :param password: its password or token.
    :raises DockerConfigError: when the user's name has a colon, where Docker separates it from the password.

    >>> with_login({"psFormat": "x", "auths": {"other": {"auth": "b"}}}, "reg:5000", "u", "p")
    {'psFormat': 'x', 'auths': {'other': {'auth': 'b'}, 'reg:5000': {'auth': 'dTpw'}}}
    """
    if ":" in username:
        raise DockerConfigError(f"the user name '{username}' at {host} has a colon; Docker cannot log in with it")
    entry = {"auth": base64.b64encode(f"{username}:{password}".encode()).decode()}
    return {**config, "auths": {**(config.get("auths") or {}), host: entry}}
