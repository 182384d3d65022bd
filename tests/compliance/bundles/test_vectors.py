"""The published vectors of RFC 6962 and C2SP, and every small tree against the RFC's definition."""

import base64
import hashlib

import pytest

from compliance.bundles.stoa_verify import (
    EMPTY_ROOT,
    Checkpoint,
    Tampered,
    Tree,
    Usage,
    Vkey,
    included,
    open_note,
    roots_at,
)
from tests.compliance.bundles import making
from tests.compliance.bundles.making import Key

# The leaves of Certificate Transparency's own tests, and the roots over the first n of them.
LEAVES = [
    bytes.fromhex(text)
    for text in (
        *("", "00", "10", "2021", "3031", "40414243", "5051525354555657"),
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = {
    1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    7: "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
}
# Of Go's golang.org/x/mod/sumdb/note, which is where the format comes from.
PETER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
PETERS_TEXT = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
)
PETERS_LINE = (
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotp"
    "RZb6KE6RyyBwJnAM=\n"
)


def test_the_roots_of_certificate_transparency() -> None:
    tree = Tree()
    assert tree.root() == EMPTY_ROOT
    assert EMPTY_ROOT.hex().startswith("e3b0c442")
    for size, leaf in enumerate(LEAVES, 1):
        tree.extend(hashlib.sha256(b"\0" + leaf).digest())
        assert tree.root().hex() == ROOTS.get(size, tree.root().hex())


def test_every_small_tree_in_every_piece_is_that_of_the_definition() -> None:
    leaves = [making.leaf(b"%d" % n) for n in range(70)]
    roots = {size: making.root(leaves[:size]) for size in range(71)}
    whole = b"".join(leaves)
    for step in (1, 3, 8, 70):
        chunks = [whole[at : at + 32 * step] for at in range(0, len(whole), 32 * step)]
        assert roots_at(chunks, set(roots)) == roots
    assert roots_at([whole], {71}) == {}


def test_every_inclusion_of_small_trees_and_none_that_is_wrong() -> None:
    leaves = [making.leaf(b"%d" % n) for n in range(20)]
    for size in range(1, 21):
        root = making.root(leaves[:size])
        for index in range(size):
            proof = making.path(index, leaves[:size])
            assert included(leaves[index], index, size, proof, root)
            assert not included(leaves[index], index + 1, size, proof, root)
            assert not included(leaves[index], index, size, [*proof, root], root)
            assert not included(leaves[index], index - size, size, proof, root)
            if proof:
                assert not included(leaves[index], index, size, proof[:-1], root)
                wrong = [bytes([proof[0][0] ^ 1]) + proof[0][1:], *proof[1:]]
                assert not included(leaves[index], index, size, wrong, root)


def test_a_note_of_the_specification() -> None:
    note = f"{PETERS_TEXT}\n{PETERS_LINE}".encode()
    peter = Vkey.parse(PETER)
    assert open_note(note, [peter], "it") == (PETERS_TEXT.encode(), {"PeterNeumann"})
    stranger = Vkey.parse(Key().vkey)
    assert open_note(note, [stranger], "it")[1] == set()
    many = note + PETERS_LINE.replace("PeterNeumann", "somebody").encode() * 40
    assert open_note(many, [peter, stranger], "it")[1] == {"PeterNeumann"}
    with pytest.raises(Tampered, match="does not fit"):
        open_note(note.replace(b"problem is", b"problem Is"), [peter], "it")
    for wrong in (
        note[:-1],
        note.replace(b"\n\n", b"\n"),
        note.replace("— ".encode(), b"- "),
        note.replace(b"=\n", b"\n"),
        note.replace(b"then", b"the\x00"),
        note + PETERS_LINE.encode() * 100,
    ):
        with pytest.raises(Tampered):
            open_note(wrong, [peter], "it")


def test_a_cosignature_of_the_specification() -> None:
    """c2sp.org/tlog-cosignature: the time that the line carries is signed, too."""
    private = Key(7).private
    public = b"\4" + private.public_key().public_bytes_raw()
    id = hashlib.sha256(b"witness.example\n" + public).digest()[:4]
    text = making.checkpoint_text(making.ORIGIN, 3, bytes(32))
    signature = private.sign(b"cosignature/v1\ntime 1679315147\n" + text.encode())
    at = (1679315147).to_bytes(8, "big")
    b64 = base64.b64encode
    vkey = Vkey.parse(f"witness.example+{id.hex()}+{b64(public).decode()}")
    line = b"\xe2\x80\x94 witness.example " + b64(id + at + signature) + b"\n"
    assert open_note(text.encode() + b"\n" + line, [vkey], "it")[1] == {"witness.example"}
    later = b"\xe2\x80\x94 witness.example " + b64(id + at[:-1] + b"\0" + signature) + b"\n"
    with pytest.raises(Tampered, match="does not fit"):
        open_note(text.encode() + b"\n" + later, [vkey], "it")


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "name",
        PETER.replace("c74f20a3", "c74f20a4"),
        PETER.replace("PeterNeumann", "Peter"),
        PETER.replace("ARpc", "BRpc"),
        PETER[:-4],
    ],
)
def test_what_is_no_key_is_refused(wrong: str) -> None:
    with pytest.raises(Usage):
        Vkey.parse(wrong)


@pytest.mark.parametrize(
    "wrong", ["", "o\n01\n{r}\n", "o\n-1\n{r}\n", "o\n1\nAAAA\n", "\n1\n{r}\n", "o\n1\n{r}\n\nx\n"]
)
def test_what_is_no_checkpoint_is_refused(wrong: str) -> None:
    with pytest.raises(Tampered):
        Checkpoint.parse(wrong.format(r="A" * 43 + "=").encode(), "it")


def test_a_checkpoint_may_say_more() -> None:
    text = making.checkpoint_text("o", 5, bytes(32))
    assert Checkpoint.parse(text.encode(), "it") == Checkpoint("o", 5, bytes(32))
    assert Checkpoint.parse(f"{text}more\n".encode(), "it").size == 5
