"""Addresses of the application, as the proxy passes them on: without the URL prefix."""

from django.contrib import admin
from django.urls import include, path

from . import health

urlpatterns = [
    path("health/live", health.live, name="health-live"),
    path("health/ready", health.ready, name="health-ready"),
    path("admin/", admin.site.urls),
    path("", include("donations.urls")),
]

handler400 = "donations.api.bad_request"
handler403 = "donations.api.forbidden"
handler404 = "donations.api.not_found"
handler500 = "donations.api.server_error"
