"""A partner's application with Django: a change and its event are one transaction.

DATABASE_URL=postgresql://… python manage.py migrate, then the same with runserver
"""

import os
import sys
from urllib.parse import unquote, urlsplit

import django
from django.conf import settings
from django.core.management import execute_from_command_line

url = urlsplit(os.environ["DATABASE_URL"])
settings.configure(
    ALLOWED_HOSTS=["127.0.0.1", "localhost"],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": url.path.removeprefix("/"),
            "HOST": url.hostname,
            "PORT": url.port,
            "USER": unquote(url.username or ""),
            "PASSWORD": unquote(url.password or ""),
        }
    },
    INSTALLED_APPS=["shop"],
    ROOT_URLCONF="shop.urls",
    SECRET_KEY="any-will-do",  # noqa: S106 (nothing is signed here)
    USE_TZ=True,
)

if __name__ == "__main__":
    django.setup()
    execute_from_command_line(sys.argv)
