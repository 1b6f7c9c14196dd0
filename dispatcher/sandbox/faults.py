"""The faults that the sandbox can be scripted to show."""

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
    """One fault, for the requests that match it. Raises `pydantic.ValidationError` (a `ValueError`).

    With `status`, `hang`, `garbage` or `cut="before"`, a request is neither checked nor counted by the rate limit; with
    `cut="after"` or a `delay` alone it is, when it arrives.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    status: Annotated[int, Field(ge=200, le=599)] | None = None
    """Answer with this status, and the error that goes with it."""
    error_code: str | None = None
    """Instead of the code that goes with the status."""
    headers: dict[str, str] = Field(default_factory=dict)
    """Added to the answer, such as `Retry-After` or `Location`."""
    body: str | None = None
    """Instead of the error."""
    delay: Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)] = 0.0
    """Seconds before the answer, or before any other fault."""
    hang: bool = False
    """Never answer."""
    cut: Literal["before", "after"] | None = None
    """Close the connection without an answer, before or after the request has been processed."""
    garbage: bool = False
    """Answer with bytes that are not HTTP."""
    installation_id: str | None = None
    """Match requests of this installation only."""
    resource_id: str | None = None
    """Match requests about this resource only."""
    times: Annotated[int, Field(ge=1)] | None = None
    """The number of requests that it is applied to; None: until it is cleared."""

    @model_validator(mode="after")
    def _refuse_contradictions(self) -> Self:
        problems = list(_contradictions(self))
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def name(self) -> str:
        """Its name in a `ReceivedRequest`: `status`, `hang`, `cut before`, `cut after`, `garbage` or `delay`."""
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
        """Whether the request is processed as if there were no fault."""
        return self.cut == "after" or self.name == "delay"

    def matches(self, installation_id: str | None, resource_id: str | None) -> bool:
        """Whether it applies to requests of this installation about this resource."""
        return self.installation_id in (None, installation_id) and self.resource_id in (None, resource_id)

    def answer(self) -> Response | None:
        """The scripted answer; None if the fault has none."""
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
    """The faults in the order in which they were scripted: the first that matches a request is applied."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []

    def next(self, installation_id: str | None, resource_id: str | None) -> Fault | None:
        """Returns the fault to apply to this request and counts it; None if none matches."""
        for place, fault in enumerate(self.faults):
            if fault.matches(installation_id, resource_id):
                self._count(place, fault)
                return fault
        return None

    def _count(self, place: int, fault: Fault) -> None:
        if fault.times == 1:
            del self.faults[place]
        elif fault.times is not None:
            self.faults[place] = fault.model_copy(update={"times": fault.times - 1})
