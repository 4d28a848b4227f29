"""The little that a JSON API needs on top of Django: errors, bodies, lists and an optional token."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, ClassVar

from django.conf import settings
from django.core.paginator import Paginator
from django.db import models, transaction
from django.forms import BaseForm, ModelForm
from django.http import HttpRequest, HttpResponseBase, JsonResponse
from django.utils.crypto import constant_time_compare
from django.utils.decorators import method_decorator
from django.views.decorators.csrf import csrf_exempt
from django.views.generic import View

from .forms import ListForm

PER_PAGE = 50


class ApiError(Exception):
    """A request that cannot be answered as asked."""

    def __init__(self, status: int, message: str, **details: Any) -> None:
        """Describe the refusal.

        :param status: the HTTP status code.
        :param message: what is wrong, for the caller.
        :param details: more keys of the answer.
        """
        super().__init__(message)
        self.status = status
        self.body = {"error": message, **details}


def invalid(form: BaseForm) -> ApiError:
    """Turn a form's errors into a refusal.

    :param form: a bound form that is not valid.
    :returns: an error 400 with the messages by field; ``__all__`` has those that belong to no single field.
    """
    return ApiError(400, "invalid values", fields={field: list(errors) for field, errors in form.errors.items()})


# The API knows no cookies, so a browser's forged request brings nothing along that CSRF tokens would protect.
@method_decorator(csrf_exempt, name="dispatch")
class ApiView(View):
    """A view that answers in JSON, its refusals included."""

    #: Whether the API's token is asked for, in an environment that has one.
    protected: ClassVar[bool] = True

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        """Answer *request*.

        :param request: what came in.
        :param args: Django's own.
        :param kwargs: the parts of the address.
        :returns: the answer or the refusal.
        """
        try:
            if self.protected:
                check_token(request)
            return super().dispatch(request, *args, **kwargs)
        except ApiError as error:
            response = JsonResponse(error.body, status=error.status)
            if error.status == 401:
                response["WWW-Authenticate"] = "Bearer"
            return response

    def http_method_not_allowed(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        """Refuse a method.

        :param request: what came in.
        :param args: Django's own.
        :param kwargs: the parts of the address.
        :returns: 405 with the methods that there are.
        """
        allowed = self._allowed_methods()
        return JsonResponse(
            {"error": "method not allowed", "allowed": allowed}, status=405, headers={"Allow": ", ".join(allowed)}
        )


def check_token(request: HttpRequest) -> None:
    """Check the caller's token where API_TOKEN is set.

    :param request: what came in.
    :raises ApiError: 401 when it is missing or wrong.
    """
    expected = settings.API_TOKEN
    if expected and not constant_time_compare(request.headers.get("Authorization", ""), f"Bearer {expected}"):
        raise ApiError(401, "this address needs the header Authorization: Bearer TOKEN")


def json_object(request: HttpRequest, fields: list[str]) -> dict[str, Any]:
    """Read the body of *request* as a flat JSON object.

    :param request: what came in.
    :param fields: the keys that are known.
    :returns: the object; a null counts as left out.
    :raises ApiError: 415 or 400 when it is something else, 413 when it is too large.
    """
    if request.content_type != "application/json":
        raise ApiError(415, "send a JSON object with Content-Type: application/json")
    if int(request.META.get("CONTENT_LENGTH") or 0) > settings.DATA_UPLOAD_MAX_MEMORY_SIZE:
        raise ApiError(413, f"at most {settings.DATA_UPLOAD_MAX_MEMORY_SIZE} bytes are accepted")
    try:
        data = json.loads(request.body)
    except ValueError:
        raise ApiError(400, "the body is not JSON") from None
    if not isinstance(data, dict):
        raise ApiError(400, "the body is not a JSON object")
    problems = {name: ["Unknown field."] for name in data.keys() - set(fields)}
    for name in data.keys() & set(fields):
        if data[name] is not None and (isinstance(data[name], bool) or not isinstance(data[name], str | int)):
            problems[name] = ["Must be a string or a whole number."]
    if problems:
        raise ApiError(400, "invalid values", fields=problems)
    return {name: value for name, value in data.items() if value is not None}


def create(form: ModelForm) -> models.Model:
    """Check and save a form in one transaction, so that what the check saw still holds when the row is written.

    :param form: a bound form.
    :returns: the new object.
    :raises ApiError: 400 with the messages by field.
    """
    with transaction.atomic():
        if not form.is_valid():
            raise invalid(form)
        return form.save()


def page(
    request: HttpRequest, queryset: models.QuerySet, form: ListForm, represent: Callable[[Any], dict]
) -> JsonResponse:
    """Answer with one page of a list.

    :param request: what came in.
    :param queryset: the whole list, ordered.
    :param form: the query parameters, checked by :func:`list_parameters`.
    :param represent: turns an object into what the answer shows.
    :returns: the page with the addresses of its neighbours.
    """
    number, size = form.cleaned_data["page"] or 1, form.cleaned_data["per_page"] or PER_PAGE
    paginator = Paginator(queryset.filter(**form.filters()), size)
    if number > paginator.num_pages:
        raise ApiError(404, f"there is no page {number}; the last one is {paginator.num_pages}")
    current = paginator.page(number)

    def address(there: bool, target: int) -> str | None:
        query = request.GET.copy()
        query["page"] = str(target)
        return f"{request.path}?{query.urlencode()}" if there else None

    return JsonResponse(
        {
            "count": paginator.count,
            "pages": paginator.num_pages,
            "previous": address(current.has_previous(), number - 1),
            "next": address(current.has_next(), number + 1),
            "results": [represent(item) for item in current.object_list],
        }
    )


def list_parameters(request: HttpRequest, form_class: type[ListForm]) -> ListForm:
    """Read the query parameters of a list.

    :param request: what came in.
    :param form_class: the parameters that there are.
    :returns: a valid form.
    :raises ApiError: 400 when one is unknown or its value is not valid.
    """
    # A misspelt filter must not answer with everything.
    form = form_class(request.GET)
    unknown = sorted(set(request.GET) - set(form.fields))
    if unknown:
        raise ApiError(400, f"unknown parameter {unknown[0]!r}; there are {', '.join(form.fields)}")
    if not form.is_valid():
        raise invalid(form)
    return form


def bad_request(request: HttpRequest, exception: Exception) -> JsonResponse:
    """Answer 400 to what Django itself refuses, such as an unknown host name.

    :param request: what came in.
    :param exception: the reason; it is logged, not shown.
    :returns: the refusal.
    """
    return JsonResponse({"error": "bad request"}, status=400)


def forbidden(request: HttpRequest, exception: Exception) -> JsonResponse:
    """Answer 403.

    :param request: what came in.
    :param exception: the reason; it is not shown.
    :returns: the refusal.
    """
    return JsonResponse({"error": "forbidden"}, status=403)


def not_found(request: HttpRequest, exception: Exception) -> JsonResponse:
    """Answer 404.

    :param request: what came in.
    :param exception: the reason; it is not shown.
    :returns: the refusal.
    """
    return JsonResponse({"error": "not found"}, status=404)


def server_error(request: HttpRequest) -> JsonResponse:
    """Answer 500; the log has the traceback under the same request id.

    :param request: what came in.
    :returns: the apology.
    """
    return JsonResponse({"error": "internal error", "see": "the log, by the id in the header X-Request-ID"}, status=500)
