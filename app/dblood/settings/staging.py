"""Staging: production with django_extensions, and defaults that work on a developer's machine."""

from __future__ import annotations

import secrets

from . import environment

# A key of this process only: sessions end with it. An environment that people log in to sets its own.
environment.set_defaults(
    SECRET_KEY=secrets.token_urlsafe(48),
    ALLOWED_HOSTS="localhost,127.0.0.1,[::1]",
    APP_ENVIRONMENT="staging",
)

from .production import *  # noqa: E402, F403
from .production import INSTALLED_APPS  # noqa: E402

INSTALLED_APPS = [*INSTALLED_APPS, "django_extensions"]
