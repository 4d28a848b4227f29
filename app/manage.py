#!/usr/bin/env python
"""Django's command line. Without DJANGO_SETTINGS_MODULE it uses staging's settings, which have working defaults."""

import os
import sys

from django.core.management import execute_from_command_line

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "dblood.settings.staging")
    execute_from_command_line(sys.argv)
