"""Alive or ready: two questions that a release asks before and after users reach it."""

from __future__ import annotations

import logging
from functools import cache

from django.db import DatabaseError, connection
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder
from django.http import HttpRequest, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

logger = logging.getLogger(__name__)


@never_cache
@require_safe
def live(request: HttpRequest) -> JsonResponse:
    """Answer that the process answers; nothing else is touched.

    :param request: GET or HEAD.
    :returns: 200 always.
    """
    return JsonResponse({"status": "alive"})


@never_cache
@require_safe
def ready(request: HttpRequest) -> JsonResponse:
    """Answer whether users can be sent here.

    :param request: GET or HEAD.
    :returns: 200, or 503 with the reason.
    """
    try:
        missing = unapplied_migrations()
    except DatabaseError as error:
        # The text of a driver's error names hosts and users: it belongs into the log, not into an answer.
        logger.error("database unreachable: %s", error)
        return _unready("database", f"database unreachable ({type(error).__name__})")
    if missing:
        return _unready(
            "migrations", f"{len(missing)} migration(s) not applied, first {missing[0]}; run manage.py migrate"
        )
    return JsonResponse({"status": "ready"})


def unapplied_migrations() -> list[str]:
    """Compare the migrations of this release with the database.

    A database that is ahead is fine: that is what an older release finds after a rollback.

    :returns: names such as ``donations.0001_initial``, sorted.
    :raises DatabaseError: when the database cannot be reached or read.
    """
    applied = MigrationRecorder(connection).applied_migrations()
    return sorted(f"{app}.{name}" for app, name in _known_migrations() - set(applied))


@cache
def _known_migrations() -> frozenset[tuple[str, str]]:
    return frozenset(MigrationLoader(None).graph.nodes)


def _unready(reason: str, detail: str) -> JsonResponse:
    return JsonResponse({"status": "unready", "reason": reason, "detail": detail}, status=503)
