"""What the sandbox does wrong on request."""

import re
from collections.abc import Iterator
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.responses import Response

from dispatcher.sandbox.errors import phrase, refuse

_HEADER = re.compile(r"(?!(?:content-length|transfer-encoding):)[A-Za-z0-9-]+:[\x20-\x7e]*", re.IGNORECASE)
_WITHOUT_BODY = {204, 205, 304}
GARBAGE = b"\x00\xffthis is not HTTP\r\n\r\n"


class Fault(BaseModel):
    """One kind of trouble, for the requests that it fits: those of `installation_id` and `resource_id`, None meaning any.

    It befalls `times` requests, None meaning until it is cleared. A delay (seconds) can stand alone or go before any other. Under
    `status`, `hang`, `garbage` and `cut="before"`, a request is neither checked nor counted by the rate limit; under `cut="after"`
    or a delay alone it is, on arrival. `error_code` or `body` replace the error that goes with the status; `headers` such as
    `Retry-After` or `Location` join it. Raises `pydantic.ValidationError` (a `ValueError`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    status: Annotated[int, Field(ge=200, le=599)] | None = None
    error_code: str | None = None
    headers: dict[str, str] = Field(default_factory=dict)
    body: str | None = None
    delay: Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)] = 0.0
    hang: bool = False
    cut: Literal["before", "after"] | None = None
    garbage: bool = False
    installation_id: str | None = None
    resource_id: str | None = None
    times: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _refuse_contradictions(self) -> Self:
        problems = list(_contradictions(self))
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def name(self) -> str:
        """What a record calls it: `status`, `hang`, `cut before`, `cut after`, `garbage` or `delay`."""
        match self:
            case Fault(cut=str() as cut):
                return f"cut {cut}"
            case Fault(status=int()):
                return "status"
            case Fault(hang=True):
                return "hang"
            case Fault(garbage=True):
                return "garbage"
        return "delay"

    @property
    def lets_through(self) -> bool:
        """Whether the request is judged as if there were no fault."""
        return self.cut == "after" or self.name == "delay"

    def fits(self, installation_id: str | None, resource_id: str | None) -> bool:
        """Whether it is meant for such a request."""
        return self.installation_id in (None, installation_id) and self.resource_id in (None, resource_id)

    def answer(self) -> Response | None:
        """The scripted answer; None where there is to be none."""
        if self.status is None:
            return None
        if self.body is not None or self.status < 300 or self.status in _WITHOUT_BODY:
            return Response(self.body, self.status, self.headers)
        return refuse(self.status, f"{phrase(self.status)} (scripted)", code=self.error_code, headers=self.headers)


def _contradictions(fault: Fault) -> Iterator[str]:
    kinds = [fault.status is not None, fault.hang, fault.cut is not None, fault.garbage]
    if sum(kinds) > 1:
        yield "status, hang, cut and garbage exclude one another: script one fault for each"
    if not any(kinds) and not fault.delay:
        yield "a fault needs one of status, delay, hang, cut, garbage"
    if fault.status is None and (fault.headers or fault.error_code is not None or fault.body is not None):
        yield "error_code, headers and body go with a status only"
    if fault.body is not None and (fault.error_code is not None or fault.status in _WITHOUT_BODY):
        yield "a body goes neither with an error_code nor with 204, 205 or 304"
    unfit = [name for name, value in fault.headers.items() if not _HEADER.fullmatch(f"{name}:{value}")]
    if unfit:
        yield f"headers that cannot be scripted: {', '.join(map(ascii, unfit))}"


class Script:
    """The faults in the order in which they were scripted: of those that fit a request, the first befalls it."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []

    def next(self, installation_id: str | None, resource_id: str | None) -> Fault | None:
        """The fault that befalls this request, counted; None if all goes well."""
        for place, fault in enumerate(self.faults):
            if fault.fits(installation_id, resource_id):
                self._count(place, fault)
                return fault
        return None

    def _count(self, place: int, fault: Fault) -> None:
        if fault.times == 1:
            del self.faults[place]
        elif fault.times is not None:
            self.faults[place] = fault.model_copy(update={"times": fault.times - 1})
