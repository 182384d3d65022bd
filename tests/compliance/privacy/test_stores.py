"""Each table that may hold personal values is some store's, or says why not."""

from compliance.privacy import registry, stores


def uncovered() -> set[str]:
    personal = {
        one.name for one in registry.everything() if one.at(registry.PERSONAL, registry.SPECIAL)
    }
    return personal - stores.covered() - stores.exempted().keys()


def test_every_table_with_personal_columns_is_covered_or_says_why_not() -> None:
    assert uncovered() == set(), "register a store in the room's personal.py, or stores.exempt it"
    assert all(stores.exempted().values())


def test_a_new_table_without_a_store_is_found() -> None:
    registry.table(
        "somewhere_new",
        category="people",
        role=registry.CONTROLLER,
        purpose="nothing",
        basis="contract",
        retention="account",
        columns=registry.levels(personal="name"),
    )
    try:
        assert uncovered() == {"somewhere_new"}
    finally:
        registry.unmodelled.pop("somewhere_new")
