"""The room's tables, classified: what tenants asked to have kept."""

from functools import partial

from compliance.privacy import registry
from compliance.privacy.registry import PROCESSOR, levels
from controlplane.batches.models import Batch, File, FileChunk, Forecast, Line

_content = partial(
    registry.table,
    category="content",
    role=PROCESSOR,
    purpose="answering a tenant's files of requests",
    basis="instruction",
    location="database-sealed",
)


def register() -> None:
    _content(
        File,
        retention="file",
        columns=levels(
            none="purpose bytes complete created_at expires_at",
            pseudonymous="id project_id created_by",
            personal="filename",
            secrets="sealed_key",
        ),
    )
    _content(
        FileChunk,
        retention="file",
        columns=levels(none="id number", pseudonymous="file_id", special="blob"),
    )
    _content(
        Batch,
        retention="batch",
        columns=levels(
            none="""endpoint completion_window status ends_as errors waits_for place total completed
            failed created_at expires_at in_progress_at finalizing_at completed_at failed_at
            expired_at cancelling_at cancelled_at""",
            pseudonymous="id project_id key_id input_file_id output_file_id error_file_id",
            personal="metadata",
            secrets="sealed_key",
        ),
    )
    _content(
        Line,
        retention="batch",
        columns=levels(
            none="""number offset size model state attempt paid unsure failures owner lease_until
            not_before began_at ended_at prompt_tokens output_tokens""",
            pseudonymous="id batch_id",
            special="result",
        ),
    )
    _content(
        Forecast,
        retention="batch",
        columns=levels(
            none="""id model requests prompt_tokens output_tokens unbounded media predicted canary
            actual look_at""",
            pseudonymous="batch_id",
        ),
    )
