"""The admin's pages."""

from django.contrib import admin

from .models import Document, Donation, Donor, StockLevel


@admin.register(Donor)
class DonorAdmin(admin.ModelAdmin):
    """Donors."""

    list_display = ["name", "email", "blood_group", "registered_at"]
    list_filter = ["blood_group"]
    search_fields = ["name", "email"]


@admin.register(Donation)
class DonationAdmin(admin.ModelAdmin):
    """Donations."""

    list_display = ["donor", "donated_on", "volume_ml", "expires_on"]
    date_hierarchy = "donated_on"
    autocomplete_fields = ["donor"]


class ReadOnlyAdmin(admin.ModelAdmin):
    """Rows that only the application itself writes."""

    def has_add_permission(self, request) -> bool:
        """Nobody adds one here."""
        return False

    def has_change_permission(self, request, obj=None) -> bool:
        """Nobody changes one here."""
        return False


@admin.register(StockLevel)
class StockLevelAdmin(ReadOnlyAdmin):
    """The stock as last counted."""

    list_display = ["blood_group", "units", "volume_ml", "refreshed_at"]


@admin.register(Document)
class DocumentAdmin(ReadOnlyAdmin):
    """Uploaded documents."""

    list_display = ["name", "content_type", "size", "uploaded_at"]
    exclude = ["file"]
