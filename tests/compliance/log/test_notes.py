"""Notes and checkpoints against the published vectors, and against what a forger would send."""

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from compliance.log import merkle, notes

# The vector of Go's golang.org/x/mod/sumdb/note.
VKEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
TEXT = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
)
SIGNATURE = (
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb"
    "6KE6RyyBwJnAM=\n"
)
# The example of c2sp.org/tlog-checkpoint.
CHECKPOINT = (
    "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n"
    "— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2"
    "q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
)
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
NAME = "stoa.example/audit"


def test_the_published_note_opens() -> None:
    key = notes.parse_vkey(VKEY)
    assert key.vkey() == VKEY
    assert notes.open_note(f"{TEXT}\n{SIGNATURE}", [key]) == TEXT
    with pytest.raises(notes.NoteError, match="not of this text"):
        notes.open_note(f"{TEXT.replace('answer', 'anchor')}\n{SIGNATURE}", [key])


def test_the_published_checkpoint_is_read() -> None:
    text, _, _ = CHECKPOINT.rpartition("\n\n")
    found = notes.parse_checkpoint(text + "\n")
    assert (found.origin, found.size) == ("example.com/behind-the-sofa", 20852163)
    assert notes.checkpoint(found.origin, found.size, found.root) == text + "\n"


def test_what_is_signed_opens_and_unknown_keys_are_passed_over() -> None:
    mine = notes.verifier(NAME, KEY)
    note = notes.sign(notes.checkpoint(f"{NAME}/meta", 3, merkle.EMPTY_ROOT), NAME, KEY)
    others = "".join(
        f"— witness{n}.example {base64.b64encode(bytes(4) + bytes(64)).decode()}\n"
        for n in range(15)
    )
    for whole in (note, note + others):
        assert notes.parse_checkpoint(notes.open_note(whole, [mine])).size == 3
    with pytest.raises(notes.NoteError, match="no known key"):
        notes.open_note(note, [notes.parse_vkey(VKEY)])
    # One good signature does not save a note that another known key did not sign.
    bad = f"— PeterNeumann {SIGNATURE.split()[2]}\n"
    with pytest.raises(notes.NoteError, match="PeterNeumann"):
        notes.open_note(note + bad, [mine, notes.parse_vkey(VKEY)])
    same_name = notes.Verifier(NAME, Ed25519PrivateKey.generate().public_key().public_bytes_raw())
    with pytest.raises(notes.NoteError, match="no known key"):
        notes.open_note(note, [same_name])


@pytest.mark.parametrize(
    "note",
    [
        "",
        "text\n",
        "text\n\nno dash\n",
        "text\n\n— name ???\n",
        "te\txt\n\n" + SIGNATURE,
        TEXT + SIGNATURE,
        TEXT + "\n" + SIGNATURE * 65,
    ],
)
def test_what_is_no_note_is_not_opened(note: str) -> None:
    with pytest.raises(notes.NoteError):
        notes.open_note(note, [notes.parse_vkey(VKEY)])


@pytest.mark.parametrize(
    "text",
    ["a\n1\n", "a\n01\n" + "A" * 43 + "=\n", "a\n1\nAAAA\n", "a\n1\n" + "A" * 43 + "=\n\nx\n"],
)
def test_what_is_no_checkpoint_is_not_read(text: str) -> None:
    with pytest.raises(notes.NoteError):
        notes.parse_checkpoint(text)


@pytest.mark.parametrize("vkey", ["", "a+b+c", VKEY.replace("c74f", "c74e"), "x" + VKEY])
def test_what_is_no_key_is_not_taken(vkey: str) -> None:
    with pytest.raises(notes.NoteError):
        notes.parse_vkey(vkey)
