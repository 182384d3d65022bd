"""An exchange whose request still arrives while it is served."""

from gateway import errors
from gateway.directory import Replica
from gateway.errors import ApiError
from gateway.exchange import Exchange
from gateway.intake import Intake
from gateway.spool import SpoolFull
from gateway.upstream import Upstream
from gateway.usage import Usage


class UploadExchange(Exchange):
    """It is tried again only while all that has left is still at hand."""

    __slots__ = ()

    def start(self) -> None:
        self._upload.failed = self.body_failed
        super().start()

    @property
    def _upload(self) -> Intake:
        upload = self._request.upload
        assert upload is not None
        return upload

    def _dispatch(self, replica: Replica) -> None:
        self._stale = True  # an idle connection may be closed by its engine, with a part of it lost
        super()._dispatch(replica)

    def _open(self, replica: Replica) -> None:
        try:
            self._entry.open(replica.id)
        except SpoolFull:
            raise errors.spool_full() from None
        self._wire = self._upload.open(self._call, self._engine_model, self._request.id)

    def _ask(self, upstream: Upstream) -> None:
        super()._ask(upstream)
        if not self._upload.attach(upstream):
            self._abandon()  # too much of it has left already
            self._fail(errors.engine_unavailable(self._call.model), "engine_gone")
        elif self._upload.awaited:
            self._client.touch(self._context.limits.body_s)

    def body_failed(self, error: ApiError) -> None:
        """What still came of the request is no good."""
        self._abandon()
        if self._sent:
            self._cut(error, "refused")
        else:
            self._fail(error, "refused")

    def _settle(self, status: int, finish: str, used: Usage, counted_by: str) -> None:
        self._upload.close()
        super()._settle(status, finish, used, counted_by)

    def timed_out(self) -> None:
        if self._upload.awaited:
            self.body_failed(errors.too_slow())
        else:
            super().timed_out()
