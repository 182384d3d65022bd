"""Times from outside: what is one, what is a leap second, and what is neither."""

from datetime import UTC, datetime

import pytest

from compliance import moments

NEW_YEAR = datetime(2017, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    [
        "2016-12-31T23:59:60Z",
        "2016-12-31T23:59:60.999Z",
        "2017-01-01T00:59:60+01:00",
        "2016-12-31T18:59:60-05:00",
        "2017-01-01T00:00:00Z",
        "2017-01-01T05:30:00+05:30",
    ],
)
def test_a_leap_second_is_the_first_moment_of_the_day_after(text: str) -> None:
    assert moments.parse(text) == NEW_YEAR


@pytest.mark.parametrize(
    "text",
    [
        "2016-12-31T23:58:60Z",
        "2016-12-31T23:59:60+01:00",
        "2016-12-31T23:59:61Z",
        "2016-12-31T23:59:60",
        "2016-12-31T23:59:59",
        "2016-02-30T00:00:00Z",
        "2016-02-30T23:59:60Z",
        "0001-01-01T00:00:00+01:00",
        "9999-12-31T23:59:60Z",
        "yesterday",
        "",
    ],
)
def test_what_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        moments.parse(text)
