"""What every environment shares. On its own it is for a developer's machine and for building the image."""

from __future__ import annotations

import re
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured

from dblood import logs

from . import environment

BASE_DIR = Path(__file__).resolve().parents[2]

# Who is answering; both are response headers.
APP_VERSION = environment.text("APP_VERSION", "development")
APP_ENVIRONMENT = environment.text("APP_ENVIRONMENT", "development")
if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", APP_ENVIRONMENT):
    raise ImproperlyConfigured(f"APP_ENVIRONMENT: {APP_ENVIRONMENT!r} is not a name of letters, digits, - and _")

SECRET_KEY = environment.text("SECRET_KEY")
DEBUG = environment.boolean("DEBUG")
ALLOWED_HOSTS = environment.words("ALLOWED_HOSTS")
CSRF_TRUSTED_ORIGINS = environment.words("CSRF_TRUSTED_ORIGINS")
# Empty leaves the donors' data to the access control in front of the application.
API_TOKEN = environment.text("API_TOKEN")

# The proxy strips the prefix; every address that the application writes gets it back.
URL_PREFIX = environment.url_prefix("URL_PREFIX")
FORCE_SCRIPT_NAME = URL_PREFIX or None
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")

DATABASES = {"default": environment.database("DATABASE_URL", f"sqlite:///{BASE_DIR / 'db.sqlite3'}")}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "donations",
]

MIDDLEWARE = [
    # First, so that every answer carries the headers and is logged: static files, redirects and refusals too.
    "dblood.middleware.RequestLogMiddleware",
    "dblood.middleware.ReleaseHeadersMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "dblood.urls"
WSGI_APPLICATION = "dblood.wsgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]

LANGUAGE_CODE = "en"
USE_I18N = False
TIME_ZONE = "UTC"
USE_TZ = True

# With the prefix, which is known at run time only: the files and their manifest, made with the image, hold no prefix.
# (A relative STATIC_URL would lack it under gunicorn: Django completes that before FORCE_SCRIPT_NAME is in force.)
STATIC_URL = f"{URL_PREFIX}/static/"
STATIC_ROOT = environment.text("STATIC_ROOT", str(BASE_DIR / "build" / "static"))
MEDIA_ROOT = environment.text("MEDIA_ROOT", str(BASE_DIR / "build" / "media"))
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "whitenoise.storage.CompressedManifestStaticFilesStorage"},
}
WHITENOISE_KEEP_ONLY_HASHED_FILES = True

FILE_UPLOAD_PERMISSIONS = 0o640
FILE_UPLOAD_DIRECTORY_PERMISSIONS = 0o750
DATA_UPLOAD_MAX_MEMORY_SIZE = 256 * 1024
DOCUMENT_MAX_BYTES = environment.integer("DOCUMENT_MAX_BYTES", 5 * 1024 * 1024, minimum=1)

LOG_LEVEL = environment.text("LOG_LEVEL", "INFO").upper()
if LOG_LEVEL not in logs.LEVELS:
    raise ImproperlyConfigured(f"LOG_LEVEL: {LOG_LEVEL!r} is not one of {', '.join(logs.LEVELS)}")
LOGGING = logs.configuration(LOG_LEVEL)
