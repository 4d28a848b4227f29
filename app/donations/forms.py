"""What the API accepts, as Django forms: one description of the rules for JSON and for uploads."""

from __future__ import annotations

import hashlib
from pathlib import PurePath
from typing import ClassVar

from django import forms
from django.conf import settings
from django.core.files.uploadedfile import UploadedFile

from .models import BloodGroup, Document, Donation, Donor

#: Accepted kinds of document: what the file starts with, and how its name may end.
KINDS = {
    "application/pdf": (b"%PDF-", {".pdf"}),
    "image/png": (b"\x89PNG\r\n\x1a\n", {".png"}),
    "image/jpeg": (b"\xff\xd8\xff", {".jpg", ".jpeg"}),
}


class DayField(forms.DateField):
    """A day in the one way of writing it that nobody can take for another day."""

    input_formats: ClassVar[list[str]] = ["%Y-%m-%d"]


class DonorForm(forms.ModelForm):
    """A new donor."""

    class Meta:
        model = Donor
        fields = ["name", "email", "blood_group"]


class DonationForm(forms.ModelForm):
    """A new donation; the day and the volume have defaults."""

    class Meta:
        model = Donation
        fields = ["donor", "donated_on", "volume_ml"]
        field_classes: ClassVar[dict] = {"donated_on": DayField}

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        # Left out means the model's default, which construct_instance() keeps for fields that the data lacks.
        self.fields["donated_on"].required = False
        self.fields["volume_ml"].required = False


class DocumentForm(forms.ModelForm):
    """An uploaded document: its kind is what its bytes say, and its name has to agree."""

    class Meta:
        model = Document
        fields = ["file"]

    def clean_file(self) -> UploadedFile:
        """Check size and kind, and note what is known about the file.

        :returns: the file.
        :raises ValidationError: when it is too large or of a kind that is not accepted.
        """
        file = self.cleaned_data["file"]
        if file.size > settings.DOCUMENT_MAX_BYTES:
            raise forms.ValidationError(
                f"The file has {file.size} bytes; at most {settings.DOCUMENT_MAX_BYTES} are accepted."
            )
        start = file.read(16)
        kind = next((kind for kind, (magic, _) in KINDS.items() if start.startswith(magic)), None)
        if kind is None or PurePath(file.name).suffix.lower() not in KINDS[kind][1]:
            raise forms.ValidationError("Only PDF, PNG and JPEG files are accepted, with a name that ends accordingly.")
        digest = hashlib.sha256()
        file.seek(0)
        for chunk in file.chunks():
            digest.update(chunk)
        self.instance.name = file.name[-200:]
        self.instance.content_type = kind
        self.instance.size = file.size
        self.instance.sha256 = digest.hexdigest()
        return file


class ListForm(forms.Form):
    """Query parameters of every list."""

    page = forms.IntegerField(min_value=1, required=False)
    per_page = forms.IntegerField(min_value=1, max_value=200, required=False)

    #: The fields that filter, and the look-ups that they stand for.
    lookups: ClassVar[dict[str, str]] = {}

    def filters(self) -> dict:
        """Return the look-ups that the caller asked for, of a form that is valid.

        :returns: arguments for ``QuerySet.filter``.
        """
        given = {lookup: self.cleaned_data[field] for field, lookup in self.lookups.items()}
        return {lookup: value for lookup, value in given.items() if value not in (None, "")}


class DonorListForm(ListForm):
    """Query parameters of the donors' list."""

    blood_group = forms.ChoiceField(choices=BloodGroup, required=False)
    lookups: ClassVar[dict[str, str]] = {"blood_group": "blood_group"}


class DonationListForm(ListForm):
    """Query parameters of the donations' list and of their export."""

    donor = forms.IntegerField(min_value=1, required=False)
    blood_group = forms.ChoiceField(choices=BloodGroup, required=False)
    since = DayField(required=False)
    until = DayField(required=False)
    lookups: ClassVar[dict[str, str]] = {
        "donor": "donor",
        "blood_group": "donor__blood_group",
        "since": "donated_on__gte",
        "until": "donated_on__lte",
    }
