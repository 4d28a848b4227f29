"""Donors, their donations, the blood stock, and the documents that belong to them."""
