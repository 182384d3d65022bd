"""Keys: what is sealed for a person or an organization, under a key that can be destroyed alone.

Words
    data key    AES-256, of one subject and one purpose; a row that holds it wrapped.
    epoch       a subject's newest data key seals; after 90 days the next one is made.
    kek         key-encryption key: wraps data keys and never leaves its KMS; it has versions.
    kms         who holds the kek: a file under a passphrase, or OpenBao's Transit (`kms`).
    vault       the purpose of a key that stands until `keep_until`, whatever else of its subject is
                destroyed. No room makes one yet.

What always holds
    - A blob names its data key, and is bound to subject, purpose and context: moved to another
      row or tenant it does not open.
    - Unwrapped keys stay in a process for minutes; whether a key is destroyed is asked of its row
      each time. So a destruction bites at once, in every process.
    - What the installation's master key sealed before there were data keys stays readable.
    - A destroyed subject gets no new key: sealing for it is refused.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING

from compliance.keys.boxes import seal, state, unseal
from compliance.keys.kms import KeyDestroyed, KmsAway
from compliance.subjects import Subject

if TYPE_CHECKING:
    from compliance.audit import Actor

__all__ = ["KeyDestroyed", "KmsAway", "destroy", "seal", "state", "unseal"]


def destroy(
    *, subjects: Iterable[Subject], actor: "Actor", reason_code: str, now: datetime
) -> list[str]:
    """Destroy all data keys of these, but for the vault's: ids of those that are destroyed.

    One event and one tombstone a subject; a second call finds it done and says the same. Whoever
    calls has had it approved (`destroying.request`, or an erasure's own approval).
    """
    # Only now: the audit log seals what it keeps of people by this package.
    from compliance.keys import destroying

    return destroying.destroy(subjects=subjects, actor=actor, reason_code=reason_code, now=now)
