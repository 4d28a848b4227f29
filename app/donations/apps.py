"""The application's entry in INSTALLED_APPS."""

from django.apps import AppConfig


class DonationsConfig(AppConfig):
    """Donors, donations, stock and documents."""

    name = "donations"
    verbose_name = "Blood donations"
