"""The API's addresses by name."""

from django.urls import path

from . import views

urlpatterns = [
    path("", views.IndexView.as_view(), name="index"),
    path("stock", views.StockView.as_view(), name="stock"),
    path("donors", views.DonorsView.as_view(), name="donors"),
    path("donors/<int:pk>", views.DonorView.as_view(), name="donor"),
    path("donations", views.DonationsView.as_view(), name="donations"),
    path("donations/<int:pk>", views.DonationView.as_view(), name="donation"),
    path("donations.csv", views.DonationsCsvView.as_view(), name="donations-csv"),
    path("documents", views.DocumentsView.as_view(), name="documents"),
    path("documents/<uuid:pk>", views.DocumentView.as_view(), name="document"),
]
