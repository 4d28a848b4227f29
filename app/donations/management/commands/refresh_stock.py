"""The scheduled command that recomputes the blood stock."""

from __future__ import annotations

import logging

from django.core.management.base import BaseCommand

from donations import stock

logger = logging.getLogger("donations.refresh_stock")


class Command(BaseCommand):
    """``manage.py refresh_stock``."""

    help = "Recompute the blood stock by group from the donations that have not expired."

    def handle(self, *args: object, **options: object) -> None:
        """Refresh the stock and log the sums.

        :param args: none.
        :param options: Django's own.
        """
        levels = stock.refresh()
        fields = {"units": sum(level.units for level in levels), "volume_ml": sum(level.volume_ml for level in levels)}
        logger.info("stock refreshed", extra={"fields": fields})
