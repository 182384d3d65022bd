import pytest
from django.core.exceptions import ImproperlyConfigured
from hypothesis import given
from hypothesis import strategies as st
from pytest_django import Settings

from compliance import sealing


@given(st.binary(max_size=300), st.text(st.characters(codec="utf-8"), max_size=40))
def test_what_is_sealed_comes_back_for_its_context_alone(plain: bytes, context: str) -> None:
    blob = sealing.seal(plain, context=context)
    assert sealing.unseal(blob, context=context) == plain
    assert sealing.unseal(memoryview(blob), context=context) == plain  # type: ignore[arg-type]
    with pytest.raises(sealing.SealBroken):
        sealing.unseal(blob, context=context + "x")


def test_equal_values_do_not_look_equal() -> None:
    assert sealing.seal(b"value", context="c") != sealing.seal(b"value", context="c")


@pytest.mark.parametrize("position", [0, 5, 11, 12, 20, -1])
def test_one_altered_byte_breaks_the_seal(position: int) -> None:
    blob = bytearray(sealing.seal(b"a personal value", context="c"))
    blob[position] ^= 1
    with pytest.raises(sealing.SealBroken):
        sealing.unseal(bytes(blob), context="c")


@pytest.mark.parametrize("length", [0, 11, 27])
def test_a_cut_blob_is_broken(length: int) -> None:
    with pytest.raises(sealing.SealBroken):
        sealing.unseal(sealing.seal(b"", context="c")[:length], context="c")


def test_another_master_key_opens_nothing(settings: Settings) -> None:
    blob = sealing.seal(b"value", context="c")
    settings.MASTER_KEY = "b3RoZXJvdGhlcm90aGVyb3RoZXJvdGhlcm90aGVyMDA="
    with pytest.raises(sealing.SealBroken):
        sealing.unseal(blob, context="c")


@pytest.mark.parametrize("key", ["", "short", "ü" * 32, "!" * 44, "MDEyMw=="])
def test_a_bad_master_key_is_named_and_not_shown(settings: Settings, key: str) -> None:
    settings.MASTER_KEY = key
    with pytest.raises(ImproperlyConfigured, match="STOA_MASTER_KEY") as caught:
        sealing.seal(b"", context="c")
    assert not key or key not in str(caught.value)
