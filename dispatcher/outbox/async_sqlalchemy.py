"""Recognizes the async objects of SQLAlchemy, without importing their module: it needs greenlet, which SQLAlchemy 2.1 installs only with
its extra `asyncio`. A caller that has such an object has imported the module.
"""

import sys
from typing import TYPE_CHECKING, TypeGuard

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession


def is_async_engine(value: object) -> "TypeGuard[AsyncEngine]":
    """Whether this is an AsyncEngine."""
    return _is_one_of(value, "AsyncEngine")


def is_async_connection(value: object) -> "TypeGuard[AsyncConnection | AsyncSession]":
    """Whether this is an AsyncConnection or an AsyncSession."""
    return _is_one_of(value, "AsyncConnection", "AsyncSession")


def _is_one_of(value: object, *classes: str) -> bool:
    module = sys.modules.get("sqlalchemy.ext.asyncio")
    return module is not None and isinstance(value, tuple(getattr(module, name) for name in classes))
