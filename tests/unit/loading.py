"""Loads settings from variables that are named without their prefix."""

from collections.abc import Mapping

import pytest

from dispatcher.settings.settings import Settings, SettingsError, load_settings

CANARY = "canary-Zx81_secret"


def load(environ: Mapping[str, str]) -> Settings:
    return load_settings({f"DISPATCHER_{name}": text for name, text in environ.items()})


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
