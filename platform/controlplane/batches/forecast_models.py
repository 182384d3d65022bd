"""What is said of a batch before it has run, while it runs, and after."""

from django.db import models


class Forecast(models.Model):
    """Of those lines of a batch that ask for one model.

    Tokens of prompts are an estimate, those of answers the most that is asked for; `unbounded` of
    the requests say no most, `media` of them have more in them than text. What was said and what
    happened is each written once: `batches.forecasting` has their shapes.
    """

    batch = models.ForeignKey("batches.Batch", on_delete=models.CASCADE, related_name="forecasts")
    model = models.CharField(max_length=300)
    requests = models.PositiveIntegerField(default=0)
    prompt_tokens = models.BigIntegerField(default=0)
    output_tokens = models.BigIntegerField(default=0)
    unbounded = models.PositiveIntegerField(default=0)
    media = models.PositiveIntegerField(default=0)
    predicted = models.JSONField(null=True)
    canary = models.JSONField(null=True)
    actual = models.JSONField(null=True)
    look_at = models.DateTimeField(null=True)  # when there is something to be said; null: no more

    class Meta:
        constraints = (models.UniqueConstraint(fields=("batch", "model"), name="forecast_once"),)
        indexes = (models.Index(fields=("look_at",), name="forecast_look"),)

    def __str__(self) -> str:
        return f"{self.batch_id} {self.model}"
