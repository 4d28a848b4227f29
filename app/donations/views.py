"""The API's addresses."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import Any
from uuid import UUID

from django.conf import settings
from django.http import (
    FileResponse,
    Http404,
    HttpRequest,
    HttpResponseBase,
    JsonResponse,
    StreamingHttpResponse,
)
from django.shortcuts import get_object_or_404, render
from django.urls import reverse
from django.utils.decorators import method_decorator
from django.views.decorators.vary import vary_on_headers

from . import api
from .forms import DocumentForm, DonationForm, DonationListForm, DonorForm, DonorListForm, ListForm
from .models import BloodGroup, Document, Donation, Donor, StockLevel

#: What a multipart body has beside the file itself, in bytes, at most.
MULTIPART_OVERHEAD = 64 * 1024


#: Names of the addresses that the index shows.
LINKS = ("stock", "donors", "donations", "donations-csv", "documents", "health-live", "health-ready")


@method_decorator(vary_on_headers("Accept"), name="dispatch")
class IndexView(api.ApiView):
    """What there is."""

    protected = False

    def get(self, request: HttpRequest) -> HttpResponseBase:
        """Answer with the API's addresses, as a page for a browser and as JSON for everyone else.

        :param request: what came in.
        :returns: the list; its addresses include the URL prefix.
        """
        links = {name: reverse(name) for name in LINKS} | {"admin": reverse("admin:index")}
        about = {"application": "dblood", "version": settings.APP_VERSION, "environment": settings.APP_ENVIRONMENT}
        if request.get_preferred_type(["application/json", "text/html"]) == "text/html":
            return render(request, "donations/index.html", {"about": about, "links": links})
        return JsonResponse({**about, "links": links})


class StockView(api.ApiView):
    """The blood stock."""

    protected = False

    def get(self, request: HttpRequest) -> HttpResponseBase:
        """Answer with the stock by blood group, as the last ``refresh_stock`` counted it.

        :param request: what came in.
        :returns: the levels; ``refreshed_at`` is null until the first refresh.
        """
        levels = {level.blood_group: level for level in StockLevel.objects.all()}
        ordered = [levels[group] for group in BloodGroup.values if group in levels]
        return JsonResponse(
            {
                "refreshed_at": min((level.refreshed_at for level in ordered), default=None),
                "stock": [
                    {"blood_group": level.blood_group, "units": level.units, "volume_ml": level.volume_ml}
                    for level in ordered
                ],
            }
        )


class DonorsView(api.ApiView):
    """All donors."""

    def get(self, request: HttpRequest) -> HttpResponseBase:
        """Answer with a page of donors.

        :param request: what came in.
        :returns: the page.
        """
        return api.page(request, Donor.objects.all(), api.list_parameters(request, DonorListForm), donor_fields)

    def post(self, request: HttpRequest) -> HttpResponseBase:
        """Register a donor.

        :param request: what came in.
        :returns: 201 with the donor.
        """
        donor = api.create(DonorForm(api.json_object(request, DonorForm.Meta.fields)))
        return created(donor_fields(donor))


class DonorView(api.ApiView):
    """One donor."""

    def get(self, request: HttpRequest, pk: int) -> HttpResponseBase:
        """Answer with a donor.

        :param request: what came in.
        :param pk: the donor's id.
        :returns: the donor.
        """
        return JsonResponse(donor_fields(get_object_or_404(Donor, pk=pk)))


class DonationsView(api.ApiView):
    """All donations."""

    def get(self, request: HttpRequest) -> HttpResponseBase:
        """Answer with a page of donations.

        :param request: what came in.
        :returns: the page.
        """
        parameters = api.list_parameters(request, DonationListForm)
        return api.page(request, Donation.objects.select_related("donor"), parameters, donation_fields)

    def post(self, request: HttpRequest) -> HttpResponseBase:
        """Record a donation.

        :param request: what came in.
        :returns: 201 with the donation.
        """
        donation = api.create(DonationForm(api.json_object(request, DonationForm.Meta.fields)))
        return created(donation_fields(donation))


class DonationView(api.ApiView):
    """One donation."""

    def get(self, request: HttpRequest, pk: int) -> HttpResponseBase:
        """Answer with a donation.

        :param request: what came in.
        :param pk: the donation's id.
        :returns: the donation.
        """
        return JsonResponse(donation_fields(get_object_or_404(Donation.objects.select_related("donor"), pk=pk)))


class DonationsCsvView(api.ApiView):
    """All donations as a table."""

    def get(self, request: HttpRequest) -> HttpResponseBase:
        """Answer with the donations as CSV, streamed: memory does not grow with their number.

        It holds no text that a donor entered, so a spreadsheet finds no formula in it.

        :param request: what came in.
        :returns: the table.
        """
        donations = Donation.objects.select_related("donor").filter(**api.list_parameters(request, CsvForm).filters())
        return StreamingHttpResponse(
            csv_lines(donations.order_by("id").iterator(chunk_size=500)),
            content_type="text/csv; charset=utf-8",
            headers={"Content-Disposition": 'attachment; filename="donations.csv"'},
        )


class DocumentsView(api.ApiView):
    """All documents."""

    def get(self, request: HttpRequest) -> HttpResponseBase:
        """Answer with a page of documents.

        :param request: what came in.
        :returns: the page; each entry has the address of its file.
        """
        return api.page(request, Document.objects.all(), api.list_parameters(request, ListForm), document_fields)

    def post(self, request: HttpRequest) -> HttpResponseBase:
        """Keep an uploaded file, the part ``file`` of a multipart form.

        :param request: what came in.
        :returns: 201 with what is known about the file.
        """
        if request.content_type != "multipart/form-data":
            raise api.ApiError(415, "send a multipart form with a part named file")
        # Before the body is read: what is too large anyway does not fill the temporary folder.
        if int(request.META.get("CONTENT_LENGTH") or 0) > settings.DOCUMENT_MAX_BYTES + MULTIPART_OVERHEAD:
            raise api.ApiError(413, f"a document has at most {settings.DOCUMENT_MAX_BYTES} bytes")
        return created(document_fields(api.create(DocumentForm(request.POST, request.FILES))))


class DocumentView(api.ApiView):
    """One document's file."""

    def get(self, request: HttpRequest, pk: UUID) -> HttpResponseBase:
        """Answer with the file as it was uploaded.

        :param request: what came in.
        :param pk: the document's id.
        :returns: the file, to be saved and not shown: it comes from a stranger.
        """
        document = get_object_or_404(Document, pk=pk)
        try:
            file = document.file.open("rb")
        except FileNotFoundError:
            raise Http404 from None
        return FileResponse(file, as_attachment=True, filename=document.name, content_type=document.content_type)


class CsvForm(DonationListForm):
    """Query parameters of the export: the list's without its pages."""

    page = None
    per_page = None


class Line:
    """A file that hands back what is written to it, which is what ``csv.writer`` wants."""

    def write(self, value: str) -> str:
        """Return *value*.

        :param value: a finished line.
        :returns: the same line.
        """
        return value


def csv_lines(donations: Iterator[Donation]) -> Iterator[str]:
    """Write donations as lines of CSV.

    :param donations: with their donors.
    :returns: the lines, the heading first.
    """
    writer = csv.writer(Line())
    yield writer.writerow(["id", "donor", "blood_group", "donated_on", "volume_ml", "expires_on"])
    for donation in donations:
        yield writer.writerow(
            [
                donation.pk,
                donation.donor_id,
                donation.donor.blood_group,
                donation.donated_on,
                donation.volume_ml,
                donation.expires_on,
            ]
        )


def created(fields: dict[str, Any]) -> JsonResponse:
    """Answer 201.

    :param fields: the new object with its address in ``url``.
    :returns: the answer, with the address in ``Location`` too.
    """
    return JsonResponse(fields, status=201, headers={"Location": fields["url"]})


def donor_fields(donor: Donor) -> dict[str, Any]:
    """Represent a donor.

    :param donor: the donor.
    :returns: what the API shows.
    """
    return {
        "id": donor.pk,
        "url": reverse("donor", args=[donor.pk]),
        "name": donor.name,
        "email": donor.email,
        "blood_group": donor.blood_group,
        "registered_at": donor.registered_at,
    }


def donation_fields(donation: Donation) -> dict[str, Any]:
    """Represent a donation.

    :param donation: the donation, with its donor.
    :returns: what the API shows.
    """
    return {
        "id": donation.pk,
        "url": reverse("donation", args=[donation.pk]),
        "donor": donation.donor_id,
        "blood_group": donation.donor.blood_group,
        "donated_on": donation.donated_on,
        "volume_ml": donation.volume_ml,
        "expires_on": donation.expires_on,
    }


def document_fields(document: Document) -> dict[str, Any]:
    """Represent a document.

    :param document: the document.
    :returns: what the API shows; ``url`` leads to the file.
    """
    return {
        "id": document.pk,
        "url": reverse("document", args=[document.pk]),
        "name": document.name,
        "content_type": document.content_type,
        "size": document.size,
        "sha256": document.sha256,
        "uploaded_at": document.uploaded_at,
    }
