"""Production refuses unsafe values and says which; staging works as it is."""

from __future__ import annotations

import pytest
from conftest import manage
from dblood.settings import environment

KEY = "Zq8vXw7Lp2Rt9Ym4Nb6Hc1Jd5Fs3Gk0Aa"
SAFE = {"DJANGO_SETTINGS_MODULE": "dblood.settings.production", "SECRET_KEY": KEY, "ALLOWED_HOSTS": "dblood.test"}


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"DEBUG": "1"}, "DEBUG: must be off"),
        ({"DEBUG": "maybe"}, "DEBUG: 'maybe' is neither true nor false"),
        ({"SECRET_KEY": ""}, "SECRET_KEY: missing"),
        ({"SECRET_KEY": "short-1234567"}, "SECRET_KEY: too weak"),
        ({"SECRET_KEY": "ab" * 30}, "SECRET_KEY: too weak"),
        ({"SECRET_KEY": "django-insecure-" + KEY}, "SECRET_KEY: looks like an example"),
        ({"SECRET_KEY_FILE": "/nonexistent/key"}, "SECRET_KEY_FILE: cannot read /nonexistent/key"),
        ({"ALLOWED_HOSTS": ""}, "ALLOWED_HOSTS: empty"),
        ({"ALLOWED_HOSTS": "dblood.test,*"}, "ALLOWED_HOSTS: '*'"),
        ({"DATABASE_URL": "postgres://u:pass#w0rd@host/db"}, "DATABASE_URL: malformed"),
        ({"DATABASE_URL": "mysql://u:pass#w0rd@host/db"}, "DATABASE_URL: malformed"),
        ({"URL_PREFIX": "api"}, "URL_PREFIX: 'api' is not a path"),
    ],
)
def test_production_refuses_and_names_the_variable(changed: dict[str, str], named: str) -> None:
    result = manage("check", **SAFE | changed)
    assert result.returncode != 0
    assert named in result.stderr.splitlines()[-1]
    assert "pass#w0rd" not in result.stderr
    assert KEY not in result.stderr


def test_production_names_all_problems_at_once() -> None:
    result = manage("check", DJANGO_SETTINGS_MODULE="dblood.settings.production", DEBUG="1")
    assert all(name in result.stderr.splitlines()[-1] for name in ("DEBUG:", "SECRET_KEY:", "ALLOWED_HOSTS:"))


def test_production_starts_with_safe_values_and_passes_djangos_own_checks(tmp_path) -> None:
    (tmp_path / "key").write_text(KEY + KEY + "\n")
    safe = {name: value for name, value in SAFE.items() if name != "SECRET_KEY"}
    result = manage("check", "--deploy", "--fail-level", "WARNING", SECRET_KEY_FILE=str(tmp_path / "key"), **safe)
    assert result.returncode == 0, result.stderr


def test_staging_works_without_any_variable_and_adds_django_extensions() -> None:
    shown = "s.DEBUG, len(s.SECRET_KEY) >= 50, 'django_extensions' in s.INSTALLED_APPS"
    script = f"from django.conf import settings as s; print({shown})"
    result = manage("shell", "--no-imports", "-c", script, DJANGO_SETTINGS_MODULE="dblood.settings.staging")
    assert result.stdout.strip() == "False True True", result.stderr


def test_staging_refuses_what_production_refuses() -> None:
    result = manage("check", DJANGO_SETTINGS_MODULE="dblood.settings.staging", ALLOWED_HOSTS="*")
    assert "ALLOWED_HOSTS: '*'" in result.stderr.splitlines()[-1]


def test_a_file_wins_over_the_variable(monkeypatch, tmp_path) -> None:
    (tmp_path / "secret").write_text("from the file\n")
    monkeypatch.setenv("ANY_SETTING", "from the variable")
    assert environment.text("ANY_SETTING") == "from the variable"
    monkeypatch.setenv("ANY_SETTING_FILE", str(tmp_path / "secret"))
    assert environment.text("ANY_SETTING") == "from the file"


def test_sqlite_is_set_up_for_two_releases_that_share_the_file(monkeypatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "sqlite:////data/db.sqlite3")
    settings = environment.database("DATABASE_URL", "")
    assert settings["NAME"] == "/data/db.sqlite3"
    assert settings["OPTIONS"] == {
        "init_command": "PRAGMA journal_mode=WAL",
        "transaction_mode": "IMMEDIATE",
        "timeout": 20,
    }


def test_postgresql_may_be_reached_by_a_socket_folder(monkeypatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgres://dblood@%2Fvar%2Frun%2Fpostgresql/dblood")
    settings = environment.database("DATABASE_URL", "")
    assert (settings["HOST"], settings["USER"], settings["NAME"]) == ("/var/run/postgresql", "dblood", "dblood")
