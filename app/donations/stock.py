"""Count the stock: what the scheduled command does."""

from __future__ import annotations

from datetime import date, datetime, timedelta

from django.db import transaction
from django.db.models import Count, Sum
from django.utils import timezone

from .models import SHELF_LIFE_DAYS, BloodGroup, Donation, StockLevel


@transaction.atomic
def refresh(today: date | None = None, now: datetime | None = None) -> list[StockLevel]:
    """Recompute every group's level from the donations that have not expired.

    It writes one row a group, groups without blood included, and may run as often as one likes, side by side too.

    :param today: the day that decides what has expired; today when not given.
    :param now: the moment that is recorded; now when not given.
    :returns: the levels in the order of :class:`BloodGroup`.
    """
    today = today or timezone.localdate()
    now = now or timezone.now()
    counted = {
        row["donor__blood_group"]: row
        for row in Donation.objects.filter(
            donated_on__gte=today - timedelta(days=SHELF_LIFE_DAYS), donated_on__lte=today
        )
        .order_by()
        .values("donor__blood_group")
        .annotate(units=Count("id"), volume=Sum("volume_ml"))
    }
    levels = []
    for group in BloodGroup.values:
        row = counted.get(group, {"units": 0, "volume": 0})
        levels.append(StockLevel(blood_group=group, units=row["units"], volume_ml=row["volume"], refreshed_at=now))
    return StockLevel.objects.bulk_create(
        levels,
        update_conflicts=True,
        unique_fields=["blood_group"],
        update_fields=["units", "volume_ml", "refreshed_at"],
    )
