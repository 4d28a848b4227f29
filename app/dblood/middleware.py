"""What every answer carries and what is logged about it."""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Callable

from django.conf import settings
from django.http import HttpRequest, HttpResponseBase

from . import logs

logger = logging.getLogger("dblood.request")

REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
Handler = Callable[[HttpRequest], HttpResponseBase]


class RequestLogMiddleware:
    """Log each request as one line, under the id that the proxy gave it.

    The query string is left out, and so are all headers and bodies: they may hold what a log must not.
    """

    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        """Answer *request* and log it.

        :param request: what came in.
        :returns: the answer, with the request's id in ``X-Request-ID``.
        """
        started = time.perf_counter()
        given = request.headers.get("X-Request-ID", "")
        token = logs.request_id.set(given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex)
        try:
            response = self.get_response(request)
            response["X-Request-ID"] = logs.request_id.get()
            fields = {
                "host": request.META.get("HTTP_HOST", ""),
                "method": request.method,
                "path": request.path,
                "status": response.status_code,
                "duration_ms": round((time.perf_counter() - started) * 1000, 1),
            }
            logger.log(
                logging.ERROR if response.status_code >= 500 else logging.INFO,
                "request answered",
                extra={"fields": fields},
            )
            return response
        finally:
            logs.request_id.reset(token)


class ReleaseHeadersMiddleware:
    """Say which version of which environment answered."""

    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        """Answer *request*.

        :param request: what came in.
        :returns: the answer with both headers.
        """
        response = self.get_response(request)
        response["X-App-Version"] = settings.APP_VERSION
        response["X-App-Environment"] = settings.APP_ENVIRONMENT
        return response
