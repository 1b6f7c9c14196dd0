"""The difference between the events that a test expects and those that it finds, in words."""

from collections.abc import Iterator, Sequence
from typing import Any

from dispatcher.outbox.events import Event


def describe_difference(expected: Sequence[Event], found: Sequence[Event]) -> str | None:
    """Returns one line for each event that the two do not have in common, whatever their order; None if there is none."""
    common, missing, unexpected = _compare([_without_trace(event) for event in expected], list(found))
    if not missing and not unexpected:
        return None
    if not found:
        return "\n".join(["no event was announced (or none that this transaction sees)", *_lines("missing", missing)])
    head = f"expected {_count(expected)}, {len(found)} in the outbox:"
    differing = list(_lines_of_pairs(missing, unexpected))
    lines = [*differing, *_lines("missing", missing), *_lines("unexpected", unexpected), *_lines("as expected", common)]
    return "\n".join([head, *lines])


def _compare(expected: list[Event], found: list[Event]) -> tuple[list[Event], list[Event], list[Event]]:
    """Returns the events in both, only in the first, and only in the second."""
    common, missing, unexpected = [], [], found
    for event in expected:
        if event in unexpected:
            unexpected.remove(event)
            common.append(event)
        else:
            missing.append(event)
    return common, missing, unexpected


def _lines_of_pairs(missing: list[Event], unexpected: list[Event]) -> Iterator[str]:
    """Yields a line for each missing event that differs from an unexpected one in one field only, and removes both."""
    for event in list(missing):
        for other in unexpected:
            fields = _differing_fields(event, other)
            if len(fields) == 1:
                missing.remove(event)
                unexpected.remove(other)
                is_, should_be = getattr(other, fields[0]), getattr(event, fields[0])
                yield f"{_label('differs')}{show(other)}: {fields[0]} is {is_!r}, expected {should_be!r}"
                break


def _differing_fields(one: Event, other: Event) -> list[str]:
    if type(one) is not type(other):
        return []
    return [name for name in type(one).model_fields if getattr(one, name) != getattr(other, name)]


def _lines(label: str, events: Sequence[Event]) -> list[str]:
    return [f"{_label(label)}{show(event)}" for event in events]


def _label(label: str) -> str:
    return f"  {label:<13}"


def _count(events: Sequence[Event]) -> str:
    return f"{len(events)} event{'' if len(events) == 1 else 's'}" if events else "no event"


def show(event: Event) -> str:
    """Returns the event as a test would write it, without the fields that are None."""
    fields: dict[str, Any] = event.model_dump(exclude_none=True)
    return f"{type(event).__name__}({', '.join(f'{name}={value!r}' for name, value in fields.items())})"


def _without_trace(event: Event) -> Event:
    return event.model_copy(update={"traceparent": None})
