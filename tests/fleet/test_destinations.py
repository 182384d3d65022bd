"""What people may write into an allow-list, and what each line then permits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.fleet import destinations
from controlplane.fleet.destinations import BadDestination, Destination, parse, permitted

LABELS = st.from_regex(r"[a-z](?:[a-z0-9-]{0,5}[a-z0-9])?", fullmatch=True)
NAMES = st.lists(LABELS, min_size=2, max_size=4).map(".".join)
PORTS = st.integers(1, 65535)


@pytest.mark.parametrize(
    ("text", "host", "port", "below"),
    [
        ("api.example.com:443", "api.example.com", 443, False),
        ("API.Example.com.:443", "api.example.com", 443, False),
        ("*.example.com:8443", "example.com", 8443, True),
        ("192.0.2.7:80", "192.0.2.7", 80, False),
        ("[2001:DB8:0::7]:443", "2001:db8::7", 443, False),
        ("xn--bcher-kva.example:443", "xn--bcher-kva.example", 443, False),
        ("db:5432", "db", 5432, False),
    ],
)
def test_what_may_be_written(text: str, host: str, port: int, below: bool) -> None:
    assert parse(text) == Destination(host, port, below)


@pytest.mark.parametrize(
    "text",
    [
        *("", "example.com", "example.com:", ":443", "example.com:0", "example.com:65536"),
        *("*:443", "*.com:443", "*.:443", "*.*.example.com:443", "a.*.com:443", "*example.com:443"),
        *("https://example.com:443", "user@example.com:443", "example.com:443/x", "a b.com:443"),
        *("bücher.example:443", "example.com:443\n", "example..com:443", "-a.com:443"),
        *(
            "[::1:443",
            "[::1]",
            "::1:443",
            "*.192.0.2.7:443",
            "*.[::1]:443",
            "1.2.3:80",
            "0x7f.1:80",
        ),
        *("127.1:80", "2130706433:80", "a" * 64 + ".com:443", "a." * 130 + "com:443"),
    ],
)
def test_what_may_not(text: str) -> None:
    with pytest.raises(BadDestination):
        parse(text)


@given(NAMES, PORTS)
def test_a_line_permits_what_it_says_and_is_read_as_it_is_shown(name: str, port: int) -> None:
    one = parse(f"{name.upper()}:{port}")
    assert parse(str(one)) == one
    assert one.permits(name, port)
    assert not one.permits(name, port % 65535 + 1)
    assert not one.permits(f"x.{name}", port)
    assert not one.permits(f"x{name}", port)


@given(NAMES, LABELS, PORTS)
def test_a_star_permits_what_is_below_alone(name: str, label: str, port: int) -> None:
    one = parse(f"*.{name}:{port}")
    assert parse(str(one)) == one
    assert one.permits(f"{label}.{name}", port)
    assert one.permits(f"{label}.{label}.{name}", port)
    assert not one.permits(name, port)
    assert not one.permits(f"{label}{name}", port)
    assert not one.permits(f"{label}.{name}.0z", port)


@given(st.text("aB1-_.:*[]@/ \0\né", max_size=300))
def test_whatever_is_written_is_refused_in_words_or_read_back(text: str) -> None:
    try:
        one = parse(text)
    except BadDestination as error:
        assert str(error).isprintable()
    else:
        assert parse(str(one)) == one


def test_nothing_is_permitted_by_an_empty_list() -> None:
    assert not permitted([], "example.com", 443)
    assert destinations.MAX >= 100
