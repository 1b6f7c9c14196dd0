"""Events that could never be delivered are refused at construction; a subject's key and body depend on its bytes alone."""

import json
import unicodedata
from typing import Any
from uuid import UUID

import pytest
from pydantic import ValidationError

from dispatcher import InstallationRemoved, InstallationUpdated, ResourceUpdated
from dispatcher.outbox.events import Subject, parse_event, subject_of

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("installation_id", ""),
        ("installation_id", "icfg 1"),
        ("installation_id", "icfg_1\n"),
        ("installation_id", "icfg_é"),
        ("installation_id", "../icfg"),
        ("installation_id", "i" * 129),
        ("installation_id", 1),
        ("installation_id", None),
        ("resource_id", ""),
        ("resource_id", "r" * 256),
        ("resource_id", "db\x00"),
        ("resource_id", "db\n1"),
        ("resource_id", b"db_1"),
        ("resource_id", None),
        ("product_id", ""),
        ("product_id", "\x7f"),
        ("product_id", "pg\x80"),
        ("resource_id", "db\x9f"),
        ("resource_id", "db\ud800"),
        ("traceparent", "00-abc-def-01"),
        ("traceparent", TRACEPARENT.upper()),
        ("billing_plan_id", "pro"),
        ("type", "resource.updated"),
    ],
)
def test_what_could_never_be_delivered_is_refused_by_the_name_of_its_field(field: str, value: object) -> None:
    values: dict[str, Any] = {"installation_id": "icfg_1", "resource_id": "db_1"} | {field: value}
    with pytest.raises(ValidationError, match=field) as refused:
        ResourceUpdated(**values)
    assert refused.value.error_count() == 1
    assert isinstance(refused.value, ValueError)


def test_a_resource_is_required_and_refused_where_it_belongs() -> None:
    with pytest.raises(ValidationError, match="resource_id"):
        ResourceUpdated(installation_id="icfg_1")  # type: ignore[call-arg] # under test
    with pytest.raises(ValidationError, match="resource_id"):
        InstallationUpdated(installation_id="icfg_1", resource_id="db_1")  # type: ignore[call-arg] # under test


def test_a_refusal_does_not_show_what_it_refused() -> None:
    with pytest.raises(ValidationError) as refused:
        ResourceUpdated(installation_id="s3cret value", resource_id="db_1")
    assert "s3cret" not in str(refused.value)


def test_a_refusal_tells_what_an_installations_id_looks_like() -> None:
    with pytest.raises(
        ValidationError, match="must be the id that Vercel gave the installation, such as icfg_…: 1 to 128 letters"
    ):
        InstallationUpdated(installation_id="my customer")


def test_an_event_does_not_change() -> None:
    event = ResourceUpdated(installation_id="icfg_1", resource_id="db_1")
    with pytest.raises(ValidationError):
        event.resource_id = "db_2"


def test_the_longest_ids_are_taken() -> None:
    event = ResourceUpdated(installation_id="i" * 128, resource_id="é" * 255, product_id="p" * 255)
    assert subject_of(event) == Subject("i" * 128, "resource.updated", "é" * 255)
    assert event.product_id == "p" * 255


@pytest.mark.parametrize("resource", [" ", "db_1 ", "\xa0", "\u202e", "\U0010ffff"])
def test_what_only_looks_odd_is_taken(resource: str) -> None:
    assert ResourceUpdated(installation_id="icfg_1", resource_id=resource).resource_id == resource


def test_subjects_that_look_alike_have_different_keys() -> None:
    alike = ["db_1", "DB_1", "db_1 ", "db_é", unicodedata.normalize("NFD", "db_é")]
    subjects = [Subject("icfg_1", "resource.updated", resource) for resource in alike]
    subjects += [Subject("icfg_", "resource.updated", "1db_1"), Subject("icfg_1", "installation.updated")]
    assert len({subject.key for subject in subjects}) == len(subjects)


def test_the_product_is_no_part_of_the_subject() -> None:
    of_products = [
        subject_of(ResourceUpdated(installation_id="icfg_1", resource_id="db_1", product_id=product))
        for product in (None, "pg", "mysql")
    ]
    assert len(set(of_products)) == 1


def test_a_body_holds_what_there_is_and_never_a_null() -> None:
    assert json.loads(Subject("icfg_1", "resource.updated", "db_1").body(product_id="pg")) == {
        "event": {"type": "resource.updated", "resourceId": "db_1", "productId": "pg"}
    }
    assert json.loads(Subject("icfg_1", "installation.updated").body(billing_plan_id="pro")) == {
        "event": {"type": "installation.updated", "billingPlanId": "pro"}
    }
    assert json.loads(Subject("icfg_1", "installation.updated").body()) == {"event": {"type": "installation.updated"}}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("icfg_1", "resource.deleted", "db_1", None, None), "type must be"),
        (("icfg_1", "resource.updated", "db_1", None, "pro"), "billing_plan_id goes with"),
        (("icfg_1", "installation.updated", "db_1", None, None), "resource_id and product_id go with"),
        (("icfg_1", "resource.updated", None, None, None), "resource_id"),
        ((None, "installation.updated", None, None, None), "installation_id"),
        ((None, "installation.removed", None, None, None), "installation_id"),
        (("icfg_1", "installation.removed", "db_1", None, None), "takes an installation_id only"),
        (("icfg_1", "installation.removed", None, "pg", None), "takes an installation_id only"),
        (("icfg_1", "installation.removed", None, None, "pro"), "takes an installation_id only"),
    ],
)
def test_a_row_that_is_no_event_is_refused_in_words(row: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_event(*row)


def test_a_row_is_the_event_that_was_published() -> None:
    assert parse_event("icfg_1", "resource.updated", "db_1", "pg", None) == ResourceUpdated(
        installation_id="icfg_1", resource_id="db_1", product_id="pg"
    )
    assert parse_event("icfg_1", "installation.updated", None, None, "pro") == InstallationUpdated(
        installation_id="icfg_1", billing_plan_id="pro"
    )
    removed = InstallationRemoved(installation_id="icfg_1")
    assert parse_event("icfg_1", "installation.removed", None, None, None) == removed
    assert subject_of(removed) == Subject("icfg_1", "installation.removed")


def test_a_uuid_and_an_integer_become_text() -> None:
    key = UUID("12345678-1234-5678-1234-567812345678")
    event = ResourceUpdated(installation_id="icfg_1", resource_id=key, product_id=7)
    assert (event.resource_id, event.product_id) == ("12345678-1234-5678-1234-567812345678", "7")
    assert InstallationUpdated(installation_id="icfg_1", billing_plan_id=7).billing_plan_id == "7"


@pytest.mark.parametrize("odd", [True, 1.5, b"db_1"])
def test_other_types_are_refused(odd: Any) -> None:
    with pytest.raises(ValidationError, match="resource_id"):
        ResourceUpdated(installation_id="icfg_1", resource_id=odd)


def test_fields_without_their_names_are_refused_in_words() -> None:
    with pytest.raises(
        TypeError, match=r"by keyword: ResourceUpdated\(installation_id=…, resource_id=…, product_id=…\)"
    ):
        ResourceUpdated("icfg_1", "db_1")  # type: ignore[call-arg] # under test
