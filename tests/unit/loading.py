"""Loads settings from variables that are named without their prefix."""

from collections.abc import Mapping

import pytest

from dispatcher.settings.settings import Settings, SettingsError, load_settings

CANARY = "canary-Zx81_secret"
DATABASE = {"DISPATCHER_DATABASE_URL": "sqlite:///dispatcher.db"}


def load(environ: Mapping[str, str]) -> Settings:
    """Loads the settings, with a database unless one is named."""
    database = {} if "DATABASE_URL_FILE" in environ else DATABASE
    return load_settings(database | {f"DISPATCHER_{name}": text for name, text in environ.items()})


def refuse(environ: Mapping[str, str]) -> str:
    """Returns the single line with which these settings are refused."""
    with pytest.raises(SettingsError) as refusal:
        load(environ)
    assert "\n" not in str(refusal.value)
    assert refusal.value.__cause__ is None
    assert refusal.value.__context__ is None
    return str(refusal.value)


def attempt(environ: Mapping[str, str]) -> Settings | str:
    """Returns the settings, or the line with which they are refused."""
    try:
        return load(environ)
    except SettingsError as refusal:
        return str(refusal)
