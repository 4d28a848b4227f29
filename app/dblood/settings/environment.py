"""Read settings from environment variables, or from files that they name.

A setting ``NAME`` is taken from the file named by ``NAME_FILE`` where that is set, then from ``NAME``, then from the
default. A secret belongs in a file: an environment variable shows in ``docker inspect`` and in every process's
``/proc`` entry.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import dj_database_url
from django.core.exceptions import ImproperlyConfigured

TRUE = {"1", "true", "yes", "on"}
FALSE = {"0", "false", "no", "off", ""}
ENGINES = {"django.db.backends.sqlite3", "django.db.backends.postgresql"}

_defaults: dict[str, str] = {}


def set_defaults(**values: str) -> None:
    """Give settings a default for this process, below anything that the environment says.

    :param values: setting names and their values as the environment would hold them.
    """
    _defaults.update(values)


def text(name: str, default: str = "") -> str:
    """Return the setting *name* as text.

    :param name: the name of the variable; ``NAME_FILE`` is looked at first.
    :param default: the value when neither is set and no layer gave a default.
    :returns: the value; a trailing line break of a file is dropped.
    :raises ImproperlyConfigured: when the file cannot be read.
    """
    path = os.environ.get(f"{name}_FILE")
    if path:
        try:
            return Path(path).read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
            raise ImproperlyConfigured(f"{name}_FILE: cannot read {path}: {reason}") from None
    return os.environ.get(name, _defaults.get(name, default))


def boolean(name: str, default: bool = False) -> bool:
    """Return the setting *name* as a truth value.

    :param name: the name of the variable.
    :param default: the value when it is not set.
    :returns: whether it is switched on.
    :raises ImproperlyConfigured: when the value is neither a yes nor a no.
    """
    value = text(name, str(default)).strip().lower()
    if value in TRUE:
        return True
    if value in FALSE:
        return False
    raise ImproperlyConfigured(f"{name}: {value!r} is neither true nor false; use 1 or 0")


def integer(name: str, default: int, minimum: int = 0) -> int:
    """Return the setting *name* as a whole number.

    :param name: the name of the variable.
    :param default: the value when it is not set.
    :param minimum: the smallest value that makes sense.
    :returns: the number.
    :raises ImproperlyConfigured: when the value is no whole number or too small.
    """
    value = text(name, str(default)).strip()
    if not re.fullmatch(r"-?\d+", value) or int(value) < minimum:
        raise ImproperlyConfigured(f"{name}: {value!r} is not a whole number of at least {minimum}")
    return int(value)


def words(name: str, default: str = "") -> list[str]:
    """Return the setting *name* as a list, split at commas.

    :param name: the name of the variable.
    :param default: the value when it is not set, with commas too.
    :returns: the parts without surrounding space; empty parts are dropped.
    :raises ImproperlyConfigured: when its file cannot be read.
    """
    return [word.strip() for word in text(name, default).split(",") if word.strip()]


def url_prefix(name: str) -> str:
    """Return the setting *name* as a URL path prefix without a trailing slash.

    :param name: the name of the variable.
    :returns: ``""`` or a path such as ``/staging/api``.
    :raises ImproperlyConfigured: when it is not a path.
    """
    value = text(name).strip().rstrip("/")
    if not re.fullmatch(r"(/[A-Za-z0-9._~-]+)*", value):
        raise ImproperlyConfigured(
            f"{name}: {value!r} is not a path such as /api (start with a slash, or leave it empty)"
        )
    return value


def database(name: str, default: str) -> dict[str, Any]:
    """Return the setting *name*, a database URL, as an entry of Django's ``DATABASES``.

    The messages never repeat the URL: it may hold a password.

    :param name: the name of the variable.
    :param default: the URL when it is not set.
    :returns: the connection settings, with those that a release needs: two versions share the database for a moment.
    :raises ImproperlyConfigured: when the URL is malformed or asks for a driver that the image has not.
    """
    form = "use sqlite:////path/db.sqlite3 or postgres://USER:PASSWORD@HOST:PORT/NAME"
    url = text(name, default).strip()
    try:
        # An unquoted special character in a password is what usually breaks the URL.
        parsed = dj_database_url.parse(url, conn_max_age=60, conn_health_checks=True) if url else {}
    except ValueError:
        raise ImproperlyConfigured(f"{name}: malformed; {form}, special characters percent-encoded") from None
    settings: dict[str, Any] = dict(parsed)
    if settings.get("ENGINE") not in ENGINES or not settings.get("NAME"):
        raise ImproperlyConfigured(f"{name}: malformed or of an unknown kind; {form}")
    options = settings.setdefault("OPTIONS", {})
    if settings["ENGINE"].endswith("sqlite3"):
        # WAL lets readers go on while one writes. Taking the write lock at BEGIN makes a second writer wait for up to
        # `timeout` seconds; taking it later fails at once with "database is locked".
        options.setdefault("init_command", "PRAGMA journal_mode=WAL")
        options.setdefault("transaction_mode", "IMMEDIATE")
        options.setdefault("timeout", 20)
    else:
        options.setdefault("connect_timeout", 5)
    return settings
