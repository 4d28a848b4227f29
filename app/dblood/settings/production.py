"""Production: common, with cookies for https only, and a refusal to start with unsafe values."""

from __future__ import annotations

from . import safety
from .common import *  # noqa: F403
from .common import ALLOWED_HOSTS, APP_ENVIRONMENT, DEBUG, SECRET_KEY, URL_PREFIX

safety.refuse_unsafe(debug=DEBUG, secret_key=SECRET_KEY, allowed_hosts=ALLOWED_HOSTS)

# Two environments may share a host name: neither sees nor overwrites the other's cookies.
SESSION_COOKIE_NAME = f"{APP_ENVIRONMENT}_session"
CSRF_COOKIE_NAME = f"{APP_ENVIRONMENT}_csrf"
SESSION_COOKIE_PATH = CSRF_COOKIE_PATH = URL_PREFIX or "/"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = True
CSRF_COOKIE_HTTPONLY = True

# The proxy redirects http and sends HSTS, once for all applications of the host; the checks of a release come by http.
SILENCED_SYSTEM_CHECKS = ["security.W004", "security.W008"]
