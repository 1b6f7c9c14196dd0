"""The two events that Vercel accepts, their subjects, the body of the request that announces a subject, and the event for the dispatcher
itself that an installation was removed.

Source of the rules: Vercel's "Create Event" endpoint. The ids of resources, products and plans are the partner's own strings,
compared byte for byte.
"""

import hashlib
import re
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NamedTuple
from uuid import UUID

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError, to_json

INSTALLATION_ID_LENGTH = 128
PARTNER_ID_LENGTH = 255
TRACEPARENT_LENGTH = 55

RESOURCE_UPDATED = "resource.updated"
INSTALLATION_UPDATED = "installation.updated"
INSTALLATION_REMOVED = "installation.removed"
"""Not for Vercel: the application announces that a customer has uninstalled."""

_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def _refuse_control_characters(value: str) -> str:
    """Raises ValueError for text with a control character (U+0000 to U+001F, U+007F to U+009F), as the outbox's constraints do.

    PostgreSQL cannot store U+0000, and the others do not occur in ids that people choose.
    """
    if _CONTROL_CHARACTER.search(value):
        raise PydanticCustomError("partner_id", "must not contain control characters (such as NUL or a line break)")
    return value


INSTALLATION_ID = re.compile(rf"[A-Za-z0-9_-]{{1,{INSTALLATION_ID_LENGTH}}}")


def _refuse_unlike_vercels(value: str) -> str:
    """Raises ValueError for an id that Vercel cannot have given to an installation."""
    if not INSTALLATION_ID.fullmatch(value):
        raise PydanticCustomError(
            "installation_id",
            "must be the id that Vercel gave the installation, such as icfg_…:"
            f" 1 to {INSTALLATION_ID_LENGTH} letters, digits, _ and -",
        )
    return value


InstallationId = Annotated[str, Field(strict=True), AfterValidator(_refuse_unlike_vercels)]


def _as_text(value: object) -> object:
    """Returns a UUID or an integer as the text that is sent to Vercel, and any other value unchanged."""
    return str(value) if isinstance(value, UUID) or (isinstance(value, int) and not isinstance(value, bool)) else value


PartnerId = Annotated[
    str,
    Field(strict=True, min_length=1, max_length=PARTNER_ID_LENGTH),
    BeforeValidator(_as_text),
    AfterValidator(_refuse_control_characters),
]
_TRACEPARENT = r"^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$"
Traceparent = Annotated[str, Field(strict=True, pattern=_TRACEPARENT)]


class Subject(NamedTuple):
    """The subject of an event: one resource of one installation, or the installation itself (`resource_id` is None).

    A resource's product and an installation's billing plan are not part of it: the request carries the newest one named.
    """

    installation_id: str
    type: str
    resource_id: str | None = None

    @property
    def key(self) -> str:
        """The subject's identity: the SHA-256 in hex of its parts in UTF-8, each preceded by its length in bytes.

        The default collations of some databases do not distinguish `db_1`, `DB_1` and `db_1 `; the hash does.
        """
        return hashlib.sha256(
            b"".join([b"-" if part is None else _with_length(part.encode()) for part in self])
        ).hexdigest()

    def body(self, *, product_id: str | None = None, billing_plan_id: str | None = None) -> bytes:
        """Returns the request body that announces this subject. Absent optional fields are left out, never sent as null."""
        event = {"type": self.type}
        if self.resource_id is not None:
            event["resourceId"] = self.resource_id
        if product_id is not None:
            event["productId"] = product_id
        if billing_plan_id is not None:
            event["billingPlanId"] = billing_plan_id
        return to_json({"event": event})


def _with_length(part: bytes) -> bytes:
    return b"%d:%b" % (len(part), part)


class _Event(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    type: ClassVar[str]
    installation_id: InstallationId
    traceparent: Traceparent | None = None

    if not TYPE_CHECKING:

        def __init__(self, *positional: object, **fields: Any) -> None:
            if positional:
                names = ", ".join(f"{name}=…" for name in type(self).model_fields if name != "traceparent")
                raise TypeError(f"pass the fields of an event by keyword: {type(self).__name__}({names})")
            super().__init__(**fields)


class ResourceUpdated(_Event):
    """The state of a linked resource changed (`resource.updated`), such as its name, status, plan or notification.

    `installation_id` has 1 to 128 characters of `[A-Za-z0-9_-]`. `resource_id` and `product_id` are your own ids: 1 to 255 characters
    without control characters; a UUID or an integer becomes text. `product_id` is sent to Vercel; if several events of the resource are
    undelivered, the newest product named is sent. Raises `pydantic.ValidationError` (a `ValueError`) that names each invalid field.
    """

    type: ClassVar[str] = RESOURCE_UPDATED
    resource_id: PartnerId
    product_id: PartnerId | None = None

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            installation_id: str,
            resource_id: str | UUID | int,
            product_id: str | UUID | int | None = None,
            traceparent: str | None = None,
        ) -> None: ...


class InstallationUpdated(_Event):
    """The installation's billing plan or notification changed on the partner's side (`installation.updated`).

    The ids follow the same rules as those of `ResourceUpdated`. `billing_plan_id` is sent to Vercel; if several events of the
    installation are undelivered, the newest plan named is sent. Raises `pydantic.ValidationError` (a `ValueError`) that names each
    invalid field.
    """

    type: ClassVar[str] = INSTALLATION_UPDATED
    billing_plan_id: PartnerId | None = None

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            installation_id: str,
            billing_plan_id: str | UUID | int | None = None,
            traceparent: str | None = None,
        ) -> None: ...


class InstallationRemoved(_Event):
    """The customer has uninstalled your integration: Vercel has deleted the installation (`installation.removed`).

    Vercel is not notified. Everything of the installation that was written before becomes a resolved dead letter, `purged`, instead of
    a request that Vercel would refuse, and the dispatcher forgets the installation. Events that are written after it are delivered as
    usual. `installation_id` follows the same rules as that of `ResourceUpdated`. Raises `pydantic.ValidationError` (a `ValueError`).
    """

    type: ClassVar[str] = INSTALLATION_REMOVED

    if TYPE_CHECKING:

        def __init__(self, *, installation_id: str, traceparent: str | None = None) -> None: ...


Event = ResourceUpdated | InstallationUpdated | InstallationRemoved
"""The type of any event that `publish` accepts, for annotations and `isinstance`; construct one of the three classes."""


def parse_event(
    installation_id: object, type_: object, resource_id: object, product_id: object, billing_plan_id: object
) -> Event:
    """Returns the event that an outbox row holds. Raises ValueError with a message for people if the row is malformed."""
    if type_ == RESOURCE_UPDATED:
        if billing_plan_id is not None:
            raise ValueError(f"billing_plan_id goes with {INSTALLATION_UPDATED} only")
        return ResourceUpdated.model_validate(
            {"installation_id": installation_id, "resource_id": resource_id, "product_id": product_id}
        )
    if type_ == INSTALLATION_UPDATED:
        if resource_id is not None or product_id is not None:
            raise ValueError(f"resource_id and product_id go with {RESOURCE_UPDATED} only")
        return InstallationUpdated.model_validate(
            {"installation_id": installation_id, "billing_plan_id": billing_plan_id}
        )
    if type_ == INSTALLATION_REMOVED:
        if resource_id is not None or product_id is not None or billing_plan_id is not None:
            raise ValueError(f"{INSTALLATION_REMOVED} takes an installation_id only")
        return InstallationRemoved.model_validate({"installation_id": installation_id})
    raise ValueError(f"type must be {RESOURCE_UPDATED}, {INSTALLATION_UPDATED} or {INSTALLATION_REMOVED}")


def subject_of(event: Event) -> Subject:
    match event:
        case ResourceUpdated():
            return Subject(event.installation_id, event.type, event.resource_id)
        case InstallationUpdated() | InstallationRemoved():
            return Subject(event.installation_id, event.type)


def is_traceparent(text: str) -> bool:
    """Whether the text is a valid W3C `traceparent`."""
    return re.fullmatch(_TRACEPARENT, text) is not None
