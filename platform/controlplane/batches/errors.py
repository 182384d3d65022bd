"""What can go wrong, as OpenAI's API says it. The kinds are tenancy's."""

from controlplane.tenancy import errors


class FileRefused(errors.Invalid):
    """The file, or what is said of it, cannot be accepted."""

    code = "invalid_file"


class FileTooLarge(errors.Invalid):
    code = "file_too_large"


class StorageFull(errors.Conflict):
    """The project keeps as much as it may."""

    code = "storage_limit_exceeded"


class BatchRefused(errors.Invalid):
    code = "invalid_batch"


class TooManyBatches(errors.Conflict):
    code = "too_many_batches"


class BatchOver(errors.Conflict):
    """It has ended, so there is nothing to cancel."""

    code = "batch_ended"
