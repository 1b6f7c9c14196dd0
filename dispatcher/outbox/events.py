"""The two events that Vercel knows, the subject each is about, and the body of the request that announces it.

Source of the rules: Vercel's "Create Event" endpoint. The ids of resources, products and plans are the partner's own strings and
compare byte for byte.
"""

import hashlib
import re
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NamedTuple
from uuid import UUID

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import to_json

INSTALLATION_ID_LENGTH = 128
PARTNER_ID_LENGTH = 255
TRACEPARENT_LENGTH = 55

RESOURCE_UPDATED = "resource.updated"
INSTALLATION_UPDATED = "installation.updated"


_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def refuse_control_characters(value: str) -> str:
    """NUL cannot be stored by PostgreSQL, and no other control character (U+0001 to U+001F, U+007F to U+009F) is part of an id
    that a person gave. The outbox's constraints refuse the same.
    """
    if _CONTROL_CHARACTER.search(value):
        raise ValueError("must not contain control characters (such as NUL or a line break)")
    return value


INSTALLATION_ID = re.compile(rf"[A-Za-z0-9_-]{{1,{INSTALLATION_ID_LENGTH}}}")
InstallationId = Annotated[str, Field(strict=True, pattern=f"^{INSTALLATION_ID.pattern}$", description="icfg_…")]


def _as_text(value: object) -> object:
    """A key of the partner's that is a UUID or an integer, as the text that Vercel knows it by."""
    return str(value) if isinstance(value, UUID) or (isinstance(value, int) and not isinstance(value, bool)) else value


PartnerId = Annotated[
    str,
    Field(strict=True, min_length=1, max_length=PARTNER_ID_LENGTH),
    BeforeValidator(_as_text),
    AfterValidator(refuse_control_characters),
]
_TRACEPARENT = r"^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$"
Traceparent = Annotated[str, Field(strict=True, pattern=_TRACEPARENT)]


class Subject(NamedTuple):
    """What an event is about: one resource of one installation, or the installation itself (then `resource_id` is None).

    A resource's product and an installation's billing plan are no part of it: the newest that is named goes with the request.
    """

    installation_id: str
    type: str
    resource_id: str | None = None

    @property
    def key(self) -> str:
        """The subject's identity: SHA-256 in hex over the UTF-8 bytes of its parts, each preceded by its length.

        Computed over bytes, because the default collations of some databases merge `db_1`, `DB_1` and `db_1 `.
        """
        return hashlib.sha256(
            b"".join([b"-" if part is None else _measured(part.encode()) for part in self])
        ).hexdigest()

    def body(self, *, product_id: str | None = None, billing_plan_id: str | None = None) -> bytes:
        """The request body that announces this subject; an absent optional field is left out, never sent as null."""
        event = {"type": self.type}
        if self.resource_id is not None:
            event["resourceId"] = self.resource_id
        if product_id is not None:
            event["productId"] = product_id
        if billing_plan_id is not None:
            event["billingPlanId"] = billing_plan_id
        return to_json({"event": event})


def _measured(part: bytes) -> bytes:
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
                raise TypeError(f"the fields of an event are named: {type(self).__name__}({names})")
            super().__init__(**fields)


class ResourceUpdated(_Event):
    """Any state of a linked resource changed (`resource.updated`): renamed, suspended, another plan, a notification.

    `installation_id` is 1 to 128 of `[A-Za-z0-9_-]`; `resource_id` and `product_id` are your own ids, 1 to 255 characters without
    control characters; a UUID or an integer becomes text. `product_id` is carried to Vercel; of several undelivered events of the
    resource the newest that has one wins. Raises `pydantic.ValidationError` (a `ValueError`) naming each field that is wrong.
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
    """The installation's billing plan (or notification) changed on the partner's side (`installation.updated`).

    `billing_plan_id` is carried to Vercel; of several undelivered events the newest that has one wins.
    Raises `pydantic.ValidationError` (a `ValueError`) naming each field that is wrong.
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


Event = ResourceUpdated | InstallationUpdated


def parse_event(
    installation_id: object, type_: object, resource_id: object, product_id: object, billing_plan_id: object
) -> Event:
    """The event in an outbox row's raw values. Raises ValueError in words that a person can read."""
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
    raise ValueError(f"type must be {RESOURCE_UPDATED} or {INSTALLATION_UPDATED}")


def subject_of(event: Event) -> Subject:
    """What this event is about."""
    match event:
        case ResourceUpdated():
            return Subject(event.installation_id, event.type, event.resource_id)
        case InstallationUpdated():
            return Subject(event.installation_id, event.type)


def is_traceparent(text: str) -> bool:
    """Whether this is a W3C trace context as `traceparent` carries it."""
    return re.fullmatch(_TRACEPARENT, text) is not None
