"""The API's rules, as a caller meets them."""

from __future__ import annotations

import csv
import io
from datetime import date, timedelta

import pytest
from django.utils import timezone

pytestmark = pytest.mark.django_db
PDF = b"%PDF-1.7\n%test\n"


def post(client, path: str, **values):
    """Post *values* as JSON."""
    return client.post(path, values, content_type="application/json")


def day(ago: int) -> str:
    """Return the day so many days ago, as the API writes it."""
    return (timezone.localdate() - timedelta(days=ago)).isoformat()


def test_a_donor_is_registered_and_found_again(client) -> None:
    answer = post(client, "/donors", name="Ada Byron", email="ada@example.org", blood_group="AB-")
    assert answer.status_code == 201
    donor = client.get(answer["Location"]).json()
    assert (donor["name"], donor["email"], donor["blood_group"]) == ("Ada Byron", "ada@example.org", "AB-")
    assert client.get("/donors").json()["results"] == [donor]


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"name": "Ada", "email": "ada@example.org", "blood_group": "X"}, "blood_group"),
        ({"name": "Ada", "email": "not an address", "blood_group": "O+"}, "email"),
        ({"name": "", "email": "ada@example.org", "blood_group": "O+"}, "name"),
        ({"name": None, "email": "ada@example.org", "blood_group": "O+"}, "name"),
        ({"name": ["Ada"], "email": "ada@example.org", "blood_group": "O+"}, "name"),
        ({"name": "Ada", "email": "ada@example.org", "blood_group": "O+", "colour": "red"}, "colour"),
    ],
)
def test_a_wrong_value_is_refused_by_name(client, values: dict, field: str) -> None:
    answer = post(client, "/donors", **values)
    assert answer.status_code == 400
    assert list(answer.json()["fields"]) == [field]


def test_an_email_is_registered_once_whatever_its_case(client, make_donor) -> None:
    make_donor(email="ada@example.org")
    answer = post(client, "/donors", name="Ada", email="ADA@example.org", blood_group="O+")
    assert answer.status_code == 400
    assert "exists already" in str(answer.json())


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        ("{", "application/json", 400),
        ("[]", "application/json", 400),
        ("{}", "text/plain", 415),
        ('{"name": "' + "a" * 300_000 + '"}', "application/json", 413),
    ],
)
def test_a_body_that_is_no_json_object_is_refused(client, body: str, content_type: str, status: int) -> None:
    answer = client.post("/donors", body, content_type=content_type)
    assert answer.status_code == status
    assert answer.json()["error"]


def test_a_donation_has_defaults_and_says_when_it_expires(client, make_donor) -> None:
    donation = post(client, "/donations", donor=make_donor().pk, volume_ml=None).json()
    assert donation["donated_on"] == day(0)
    assert donation["volume_ml"] == 450
    assert date.fromisoformat(donation["expires_on"]) - timezone.localdate() == timedelta(days=42)
    assert client.get(donation["url"]).json() == donation


@pytest.mark.parametrize(("ago", "status"), [(56, 201), (55, 400), (0, 400)])
def test_donations_of_a_donor_lie_56_days_apart(client, make_donation, ago: int, status: int) -> None:
    donor = make_donation(days_ago=ago).donor
    answer = post(client, "/donations", donor=donor.pk)
    assert answer.status_code == status
    if status == 400:
        assert "56 days" in answer.json()["fields"]["donated_on"][0]


def test_the_interval_counts_towards_later_donations_too_and_not_for_other_donors(
    client, make_donation, make_donor
) -> None:
    donor = make_donation(days_ago=10).donor
    assert post(client, "/donations", donor=donor.pk, donated_on=day(20)).status_code == 400
    assert post(client, "/donations", donor=donor.pk, donated_on=day(66)).status_code == 201
    assert post(client, "/donations", donor=make_donor().pk, donated_on=day(20)).status_code == 201


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"donated_on": "2999-01-01"}, "donated_on"),
        ({"donated_on": "01/02/2026"}, "donated_on"),
        ({"volume_ml": 199}, "volume_ml"),
        ({"volume_ml": 501}, "volume_ml"),
        ({"volume_ml": True}, "volume_ml"),
        ({"donor": 999}, "donor"),
        ({"donor": 10**30}, "donor"),
        ({"donor": None}, "donor"),
    ],
)
def test_a_wrong_donation_is_refused(client, make_donor, values: dict, field: str) -> None:
    answer = post(client, "/donations", **{"donor": make_donor().pk} | values)
    assert answer.status_code == 400
    assert list(answer.json()["fields"]) == [field]


def test_a_list_comes_in_pages_that_lead_to_each_other(client, make_donor) -> None:
    ids = [make_donor().pk for _ in range(5)]
    seen, address = [], "/donors?per_page=2"
    while address:
        answer = client.get(address).json()
        seen += [donor["id"] for donor in answer["results"]]
        address = answer["next"]
    assert (seen, answer["count"], answer["pages"]) == (ids, 5, 3)
    assert answer["previous"] == "/donors?per_page=2&page=2"


@pytest.mark.parametrize(
    ("address", "status"),
    [
        ("/donors?page=2", 404),
        ("/donors?page=0", 400),
        ("/donors?per_page=201", 400),
        ("/donors?bloodgroup=O-", 400),
        ("/donors?blood_group=Q", 400),
        ("/donations?since=yesterday", 400),
        ("/donations.csv?page=1", 400),
        ("/donors/1", 404),
        ("/donations/99999999999999999999999", 404),
        ("/no/such/address", 404),
    ],
)
def test_what_is_not_there_or_not_understood_is_said_in_json(client, address: str, status: int) -> None:
    answer = client.get(address)
    assert answer.status_code == status
    assert answer.json()["error"]


def test_another_method_is_refused_with_those_there_are(client) -> None:
    answer = client.delete("/donors")
    assert (answer.status_code, answer["Allow"]) == (405, "GET, POST, HEAD, OPTIONS")


def test_lists_filter(client, make_donation) -> None:
    old, new = make_donation(days_ago=100, blood_group="O-"), make_donation(days_ago=1, blood_group="A+")

    def found(query: str) -> list[int]:
        return [donation["id"] for donation in client.get(f"/donations?{query}").json()["results"]]

    assert found("") == [new.pk, old.pk]
    assert found(f"donor={old.donor_id}") == [old.pk]
    assert found("blood_group=A%2B") == [new.pk]
    assert found(f"since={day(50)}") == [new.pk]
    assert found(f"until={day(50)}") == [old.pk]


def test_the_export_is_streamed_and_complete(client, make_donation) -> None:
    donations = [make_donation(days_ago=ago, volume_ml=300) for ago in (3, 2, 1)]
    answer = client.get("/donations.csv")
    assert answer.streaming
    rows = list(csv.DictReader(io.StringIO(answer.getvalue().decode())))
    assert [int(row["id"]) for row in rows] == [donation.pk for donation in donations]
    assert rows[0] == {
        "id": str(donations[0].pk),
        "donor": str(donations[0].donor_id),
        "blood_group": "O-",
        "donated_on": day(3),
        "volume_ml": "300",
        "expires_on": day(3 - 42),
    }


def upload(client, content: bytes, name: str = "consent.pdf"):
    """Post a file."""
    file = io.BytesIO(content)
    file.name = name
    return client.post("/documents", {"file": file})


def test_a_document_comes_back_as_it_was_sent(client, media) -> None:
    answer = upload(client, PDF, "../Einwilligung ä.pdf")
    assert answer.status_code == 201
    document = answer.json()
    assert (document["name"], document["content_type"], document["size"]) == (
        "Einwilligung ä.pdf",
        "application/pdf",
        len(PDF),
    )
    back = client.get(document["url"])
    assert back.getvalue() == PDF
    assert back["Content-Type"] == "application/pdf"
    assert back["Content-Disposition"].startswith("attachment")
    assert back["X-Content-Type-Options"] == "nosniff"
    assert [path.name for path in media.rglob("*") if path.is_file()] == [document["id"].replace("-", "")]


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"<script>", "page.html"),
        (b"<script>", "consent.pdf"),
        (PDF, "consent.exe"),
        (b"", "consent.pdf"),
        (PDF + b"x" * 100, "a.pdf"),
    ],
    ids=["kind", "content", "name", "empty", "too large"],
)
def test_a_document_of_another_kind_or_size_is_refused(client, settings, media, content: bytes, name: str) -> None:
    settings.DOCUMENT_MAX_BYTES = 100
    answer = upload(client, content, name)
    assert answer.status_code == 400
    assert list(answer.json()["fields"]) == ["file"]
    assert not list(media.rglob("*"))


def test_a_far_too_large_document_is_refused_before_it_is_read(client, settings) -> None:
    settings.DOCUMENT_MAX_BYTES = 100
    assert upload(client, PDF + b"x" * 100_000).status_code == 413


def test_a_document_whose_file_is_lost_is_not_found(client, media) -> None:
    document = upload(client, PDF).json()
    next(path for path in media.rglob("*") if path.is_file()).unlink()
    assert client.get(document["url"]).status_code == 404


def test_with_a_token_set_only_its_holder_sees_people(client, settings, make_donor) -> None:
    make_donor()
    settings.API_TOKEN = "a-token-of-the-test"
    assert client.get("/donors").status_code == 401
    assert client.get("/donors", headers={"Authorization": "Bearer wrong"})["WWW-Authenticate"] == "Bearer"
    assert client.get("/donors", headers={"Authorization": "Bearer a-token-of-the-test"}).json()["count"] == 1
    assert client.get("/stock").status_code == 200
    assert client.get("/").status_code == 200


def test_the_index_lists_addresses_that_answer(client) -> None:
    index = client.get("/").json()
    assert {"stock", "donors", "donations", "donations-csv", "documents", "admin"} <= set(index["links"])
    assert all(client.get(address).status_code in (200, 302) for address in index["links"].values())
