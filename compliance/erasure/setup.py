"""What this package tells the rest of the room as it loads."""

from collections.abc import Sequence

from compliance import tombstones
from compliance.bundles import stored_log
from compliance.erasure import bundles, executing, own, privacy
from compliance.subject_requests import bundle

REASON = "GDPR-17"


def register() -> None:
    privacy.register()
    own.register()
    bundles.register()
    bundle.register()
    tombstones.register("erasure.execute", executing.replay)
    stored_log.register_erasures(_erased)


def _erased(event_ids: Sequence[str]) -> dict[str, stored_log.Erasure]:
    return {
        event: stored_log.Erasure(REASON, certificate, by)
        for event, (certificate, by) in own.erasures(event_ids).items()
    }
