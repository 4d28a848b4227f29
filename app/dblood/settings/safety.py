"""The values that production refuses."""

from __future__ import annotations

from django.core.exceptions import ImproperlyConfigured

SECRET_KEY_MIN_LENGTH = 32
SECRET_KEY_MIN_UNIQUE = 8
INSECURE_WORDS = ("django-insecure", "changeme", "change-me", "secret-key", "secret_key")


def problems(*, debug: bool, secret_key: str, allowed_hosts: list[str]) -> list[str]:
    """Say what is unsafe.

    :param debug: Django's DEBUG.
    :param secret_key: Django's SECRET_KEY; it is never part of a message.
    :param allowed_hosts: Django's ALLOWED_HOSTS.
    :returns: one sentence for each problem, which starts with the variable's name.
    """
    found = []
    if debug:
        found.append("DEBUG: must be off; an error page would show settings and source code")
    if not secret_key:
        found.append("SECRET_KEY: missing; set it, or SECRET_KEY_FILE to the path of a file that holds it")
    elif len(secret_key) < SECRET_KEY_MIN_LENGTH or len(set(secret_key)) < SECRET_KEY_MIN_UNIQUE:
        found.append(f"SECRET_KEY: too weak; use at least {SECRET_KEY_MIN_LENGTH} random characters")
    elif any(word in secret_key.lower() for word in INSECURE_WORDS):
        found.append("SECRET_KEY: looks like an example value; use random characters")
    if not allowed_hosts:
        found.append("ALLOWED_HOSTS: empty; list the host names that the application answers to, with commas between")
    elif any("*" in host for host in allowed_hosts):
        found.append("ALLOWED_HOSTS: '*' would answer to any name; list the host names")
    return found


def refuse_unsafe(*, debug: bool, secret_key: str, allowed_hosts: list[str]) -> None:
    """Stop the start when a value is unsafe; the parameters are those of :func:`problems`.

    :raises ImproperlyConfigured: with all problems in one message.
    """
    found = problems(debug=debug, secret_key=secret_key, allowed_hosts=allowed_hosts)
    if found:
        raise ImproperlyConfigured("refusing to start with unsafe settings. " + "; ".join(found))
