"""Donors, donations, stock and documents, with the rules that hold whoever writes them: API, admin or command."""

from __future__ import annotations

import uuid
from datetime import timedelta

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinLengthValidator, MinValueValidator
from django.db import models
from django.db.models.functions import Lower
from django.utils import timezone

#: Days that must lie between two donations of whole blood by one donor.
DONATION_INTERVAL_DAYS = 56
#: Days that a unit of whole blood keeps.
SHELF_LIFE_DAYS = 42
VOLUME_MIN_ML = 200
VOLUME_MAX_ML = 500


class BloodGroup(models.TextChoices):
    """ABO group and rhesus factor."""

    O_NEG = "O-", "O-"
    O_POS = "O+", "O+"
    A_NEG = "A-", "A-"
    A_POS = "A+", "A+"
    B_NEG = "B-", "B-"
    B_POS = "B+", "B+"
    AB_NEG = "AB-", "AB-"
    AB_POS = "AB+", "AB+"


class Donor(models.Model):
    """A person who gives blood."""

    name = models.CharField(max_length=120, validators=[MinLengthValidator(2)])
    email = models.EmailField()
    blood_group = models.CharField(max_length=3, choices=BloodGroup)
    registered_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["id"]
        constraints = [
            models.UniqueConstraint(
                Lower("email"),
                name="donor_email_unique",
                violation_error_message="A donor with this email exists already.",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.name} ({self.blood_group})"


class Donation(models.Model):
    """One unit of whole blood."""

    donor = models.ForeignKey(Donor, on_delete=models.PROTECT, related_name="donations")
    donated_on = models.DateField(default=timezone.localdate)
    volume_ml = models.PositiveSmallIntegerField(
        "volume (ml)", default=450, validators=[MinValueValidator(VOLUME_MIN_ML), MaxValueValidator(VOLUME_MAX_ML)]
    )

    class Meta:
        ordering = ["-donated_on", "-id"]
        indexes = [models.Index(fields=["donated_on"], name="donation_donated_on")]
        constraints = [
            models.CheckConstraint(
                condition=models.Q(volume_ml__gte=VOLUME_MIN_ML, volume_ml__lte=VOLUME_MAX_ML),
                name="donation_volume_range",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.volume_ml} ml on {self.donated_on}"

    @property
    def expires_on(self):
        """The last day on which the unit can be used."""
        return self.donated_on + timedelta(days=SHELF_LIFE_DAYS)

    def clean(self) -> None:
        """Check the rules that need more than one field, inside the transaction that writes the row.

        :raises ValidationError: when the day lies ahead or too near to another donation of the donor.
        """
        if self.donated_on is None or self.donor_id is None:
            return
        if self.donated_on > timezone.localdate():
            raise ValidationError({"donated_on": "A donation cannot lie in the future."})
        # Two donations of one donor at the same moment must not both find the interval free. (SQLite's transactions
        # exclude each other anyway.)
        Donor.objects.select_for_update().get(pk=self.donor_id)
        interval = timedelta(days=DONATION_INTERVAL_DAYS)
        near = (
            Donation.objects.filter(
                donor_id=self.donor_id,
                donated_on__gt=self.donated_on - interval,
                donated_on__lt=self.donated_on + interval,
            )
            .exclude(pk=self.pk)
            .first()
        )
        if near:
            raise ValidationError(
                {
                    "donated_on": f"At least {DONATION_INTERVAL_DAYS} days must lie between two donations; "
                    f"this donor gave on {near.donated_on}."
                }
            )


class StockLevel(models.Model):
    """How much unexpired blood of a group there is, as the last ``refresh_stock`` counted it."""

    blood_group = models.CharField(max_length=3, choices=BloodGroup, primary_key=True)
    units = models.PositiveIntegerField()
    volume_ml = models.PositiveBigIntegerField("volume (ml)")
    refreshed_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.blood_group}: {self.units} units"


def document_path(document: Document, filename: str) -> str:
    """Return where a document's file lies under MEDIA_ROOT: the name that its sender gave it is no part of that.

    :param document: the document that the file belongs to.
    :param filename: the sender's name of the file; not used.
    :returns: a relative path.
    """
    return f"documents/{document.pk.hex[:2]}/{document.pk.hex}"


class Document(models.Model):
    """An uploaded file, such as a signed consent."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(max_length=200)
    content_type = models.CharField(max_length=40)
    size = models.PositiveIntegerField("size (bytes)")
    sha256 = models.CharField(max_length=64)
    file = models.FileField(upload_to=document_path)
    uploaded_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-uploaded_at", "id"]

    def __str__(self) -> str:
        return self.name
