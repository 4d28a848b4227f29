"""Alive, ready, and the migrations that decide it."""

from __future__ import annotations

import pytest
from django.core.management import call_command
from django.db import DatabaseError, connection
from django.db.migrations.recorder import MigrationRecorder


def test_alive_touches_no_database(client) -> None:
    # Without pytest's `db` fixture any query fails the test.
    assert client.get("/health/live").json() == {"status": "alive"}


@pytest.mark.django_db
def test_ready_with_all_migrations(client, django_assert_max_num_queries) -> None:
    with django_assert_max_num_queries(2):
        answer = client.get("/health/ready")
    assert (answer.status_code, answer.json()) == (200, {"status": "ready"})
    assert "no-store" in answer["Cache-Control"]


@pytest.mark.django_db
def test_not_ready_while_a_migration_is_missing(client) -> None:
    MigrationRecorder(connection).record_unapplied("donations", "0001_initial")
    answer = client.get("/health/ready")
    assert (answer.status_code, answer.json()["reason"]) == (503, "migrations")
    assert "donations.0001_initial" in answer.json()["detail"]


@pytest.mark.django_db
def test_ready_on_a_newer_database_as_after_a_rollback(client) -> None:
    MigrationRecorder(connection).record_applied("donations", "9999_of_a_later_release")
    assert client.get("/health/ready").status_code == 200


@pytest.mark.django_db
def test_not_ready_without_the_database_and_says_no_more_than_that(client) -> None:
    def refuse(execute, sql, params, many, context):
        raise DatabaseError("connection to host db.internal as user dblood failed")

    with connection.execute_wrapper(refuse):
        answer = client.get("/health/ready")
    assert (answer.status_code, answer.json()["reason"]) == (503, "database")
    assert "db.internal" not in answer.content.decode()


@pytest.mark.django_db
def test_the_models_have_no_change_without_a_migration() -> None:
    call_command("makemigrations", "--check", "--dry-run", verbosity=0)
    assert connection.introspection.table_names()
