"""What an accountant sets for the books: the numbers that a DATEV file uses for our accounts."""

from django.db import models

from compliance.fields import IdField


class DatevSetting(models.Model):
    """One row, or none while the proposals hold (`datev.PROPOSED`).

    `accounts`: the beginning of a ledger account's code to a number of the tax adviser's chart.
    """

    id = IdField("dtv")
    consultant = models.PositiveIntegerField(default=1001)  # Beraternummer
    client = models.PositiveIntegerField(default=1)  # Mandantennummer
    year_begins = models.PositiveSmallIntegerField(default=1)  # month of the financial year
    digits = models.PositiveSmallIntegerField(default=4)  # Sachkontenlänge
    chart = models.CharField(max_length=2, default="03")  # SKR
    accounts = models.JSONField(default=dict)
    changed_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.consultant}/{self.client}"
