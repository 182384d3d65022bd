"""Rows about keys. No key lies here in the clear."""

from django.db import models
from django.db.models import Q

from compliance.fields import IdField


class DataKey(models.Model):
    """A subject's key for a purpose, wrapped by `kek` (`file/2`, `transit/stoa/3`).

    `wrapped` is null once it is destroyed. A row that never had a key (`kek` empty) says that its
    subject was closed to new ones. `keep_until`: of the vault, the last day on which it stands.
    """

    DATA, VAULT = "data", "vault"

    id = IdField("dk")
    subject_kind = models.CharField(max_length=16)
    subject_id = models.CharField(max_length=31)
    purpose = models.CharField(max_length=8, default=DATA)
    kek = models.CharField(max_length=96, blank=True)
    wrapped = models.BinaryField(null=True)
    created_at = models.DateTimeField()
    rewrapped_at = models.DateTimeField(null=True)
    destroyed_at = models.DateTimeField(null=True)
    keep_until = models.DateField(null=True)

    class Meta:
        indexes = (
            models.Index(fields=("subject_id", "purpose", "id"), name="datakey_subject"),
            models.Index(fields=("kek", "id"), condition=Q(destroyed_at=None), name="datakey_kek"),
        )
        constraints = (
            models.CheckConstraint(
                condition=Q(destroyed_at=None, wrapped__isnull=False)
                | Q(destroyed_at__isnull=False, wrapped=None),
                name="datakey_destroyed_is_gone",
            ),
        )

    def __str__(self) -> str:
        return self.id

    @property
    def context(self) -> str:
        """What its wrapping is bound to: a wrapped key in another row does not open."""
        return f"{self.id}|{self.subject_kind}|{self.subject_id}|{self.purpose}"


class KekVersion(models.Model):
    """A version of a key-encryption key, as the KMS told of it. The newest one of a KMS wraps.

    `rewrapped_at`: since then no data key here is wrapped by it; `retired_at`: the KMS has it no
    more, and a backup from before cannot be opened.
    """

    kek = models.CharField(max_length=96, primary_key=True)
    created_at = models.DateTimeField()
    noted_at = models.DateTimeField()
    rewrapped_at = models.DateTimeField(null=True)
    retired_at = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return self.kek


class KeyDestruction(models.Model):
    """That a subject's data keys shall be destroyed: asked for by one, approved by another.

    `key_ids` and `backups_until` are the certificate's: what was destroyed, and the day after which
    no backup of ours can hold a copy (null: none is made).
    """

    OPEN, DONE, REFUSED = "open", "done", "refused"

    id = IdField("kdr")
    subject_kind = models.CharField(max_length=16)
    subject_id = models.CharField(max_length=31)
    reason_code = models.CharField(max_length=64)
    state = models.CharField(max_length=8, default=OPEN)
    requested_by = models.CharField(max_length=64)
    requested_at = models.DateTimeField()
    decided_by = models.CharField(max_length=64, blank=True)
    decided_at = models.DateTimeField(null=True)
    key_ids = models.JSONField(default=list)
    backups_until = models.DateField(null=True)
    event_id = models.CharField(max_length=31, blank=True)

    class Meta:
        constraints = (
            models.UniqueConstraint(
                fields=("subject_kind", "subject_id"),
                condition=Q(state="open"),
                name="keydestruction_one_open",
            ),
            models.CheckConstraint(
                condition=~Q(state="done") | ~Q(requested_by=models.F("decided_by")),
                name="keydestruction_by_two",
            ),
        )

    def __str__(self) -> str:
        return self.id
