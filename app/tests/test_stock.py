"""The scheduled command and what it shows."""

from __future__ import annotations

import pytest
from django.core.management import call_command
from donations.models import BloodGroup

pytestmark = pytest.mark.django_db


def stock(client) -> dict[str, tuple[int, int]]:
    """Return units and millilitres by blood group."""
    return {row["blood_group"]: (row["units"], row["volume_ml"]) for row in client.get("/stock").json()["stock"]}


def test_before_the_first_refresh_the_stock_is_unknown(client) -> None:
    assert client.get("/stock").json() == {"refreshed_at": None, "stock": []}


def test_without_donations_every_group_is_at_zero(client) -> None:
    call_command("refresh_stock")
    assert stock(client) == dict.fromkeys(BloodGroup.values, (0, 0))


def test_it_counts_what_has_not_expired(client, make_donation) -> None:
    make_donation(days_ago=0, blood_group="O-", volume_ml=300)
    make_donation(days_ago=42, blood_group="O-", volume_ml=200)
    make_donation(days_ago=43, blood_group="O-", volume_ml=500)
    make_donation(days_ago=1, blood_group="AB+", volume_ml=450)
    call_command("refresh_stock")
    levels = stock(client)
    assert (levels["O-"], levels["AB+"], levels["A-"]) == ((2, 500), (1, 450), (0, 0))


def test_a_refresh_replaces_the_one_before(client, make_donation) -> None:
    donation = make_donation()
    call_command("refresh_stock")
    before = client.get("/stock").json()
    donation.delete()
    call_command("refresh_stock")
    after = client.get("/stock").json()
    assert after["refreshed_at"] > before["refreshed_at"]
    assert stock(client)["O-"] == (0, 0)
