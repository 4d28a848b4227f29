"""Structured logs: one JSON object a line on stdout, for Django and gunicorn alike."""

from __future__ import annotations

import json
import logging
import os
from contextvars import ContextVar
from datetime import UTC, datetime

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")

#: The id of the request that the current thread is answering.
request_id: ContextVar[str] = ContextVar("request_id", default="")


class JsonFormatter(logging.Formatter):
    """Write a record as one line of JSON; ``extra={"fields": {...}}`` adds keys."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line for *record*.

        :param record: what was logged.
        :returns: a JSON object without line breaks.
        """
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request_id.get():
            entry["request_id"] = request_id.get()
        entry.update(getattr(record, "fields", {}))
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str, ensure_ascii=False)


def configuration(level: str = "") -> dict:
    """Return the configuration for :func:`logging.config.dictConfig`.

    :param level: the lowest level that is written; without it, LOG_LEVEL of the environment counts.
    :returns: a dictionary that Django's ``LOGGING`` and gunicorn's ``logconfig_dict`` both take.
    """
    level = level or os.environ.get("LOG_LEVEL", "INFO").upper()
    level = level if level in LEVELS else "INFO"
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"json": {"()": "dblood.logs.JsonFormatter"}},
        "handlers": {"stdout": {"class": "logging.StreamHandler", "formatter": "json", "stream": "ext://sys.stdout"}},
        "root": {"handlers": ["stdout"], "level": level},
        "loggers": {
            "django": {"handlers": [], "level": level, "propagate": True},
            # Refusals are in the request log already.
            "django.request": {"handlers": [], "level": "ERROR", "propagate": True},
            # Strangers' scans would fill the log with tracebacks; the request log has the refusal and the host name.
            "django.security.DisallowedHost": {"handlers": [], "level": "CRITICAL", "propagate": True},
            "gunicorn.error": {"handlers": [], "level": level, "propagate": True},
        },
    }
