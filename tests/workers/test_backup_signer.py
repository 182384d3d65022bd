"""The signer's state in a keys file: the same key again, and no head of a log that it knew."""

from pathlib import Path

import pytest

from compliance.log import merkle, signing
from tests.signers import running
from workers.backup import secrets, signers

NODES = merkle.nodes_of([merkle.leaf_hash(b"%d" % n) for n in range(9)])
ONE, TWO = "localhost/audit/t/org_1", "localhost/audit/t/org_2"


def sign(origin: str, size: int, last: int = 0) -> str:
    proof = merkle.consistency_proof(NODES, last, size)
    return signing.checkpoint(origin, size, merkle.tree_root(NODES, size), proof)


def test_what_comes_back_signs_no_other_history(tmp_path: Path) -> None:
    with running(tmp_path / "here"):
        key, copied_head = signing.vkey(), sign(ONE, 4)
        data = secrets.collected("bak_1", {}, signer=signers.copied(tmp_path / "here"))
        sign(ONE, 7, last=4)  # after the copy: a head that it does not know of
    kept = secrets.read(data).signer
    assert kept and signers.put_back(tmp_path / "there", kept) == 1
    with running(tmp_path / "there"):
        assert signing.vkey() == key
        head = signing.head(ONE)
        assert (head.size, head.note, head.closed) == (4, copied_head, True)
        with pytest.raises(signing.Refused) as caught:
            sign(ONE, 9, last=4)
        assert caught.value.code == "closed"
        sign(TWO, 3)  # the successors' origins are new to it


def test_a_signer_that_is_there_or_cannot_be_read_is_told(tmp_path: Path) -> None:
    with running(tmp_path / "here"):
        sign(ONE, 4)
        state = signers.copied(tmp_path / "here")
    with pytest.raises(signers.SignerError, match="of its own"):
        signers.put_back(tmp_path / "here", state)
    for missing in ("signer.key", "heads.sqlite3"):
        (tmp_path / "here" / missing).rename(tmp_path / missing)
        with pytest.raises(signers.SignerError, match="STOA_BACKUP_SIGNER"):
            signers.copied(tmp_path / "here")
        (tmp_path / missing).rename(tmp_path / "here" / missing)
