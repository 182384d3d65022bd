"""What the fleet refuses, each with a code that machines read and a message for a person."""


class FleetError(Exception):
    """Base: `code` is stable, `str(error)` says what is wrong and what to do."""

    code = "fleet_error"


class InvalidRegion(FleetError):
    code = "invalid_region"


class InvalidName(FleetError):
    code = "invalid_name"


class AlreadyExists(FleetError):
    code = "already_exists"


class InvalidToken(FleetError):
    """The enrolment token is not one of ours, or was never issued."""

    code = "enrollment_token_invalid"


class UsedToken(FleetError):
    code = "enrollment_token_used"


class ExpiredToken(FleetError):
    code = "enrollment_token_expired"


class InvalidRequest(FleetError):
    """The certificate signing request cannot be signed."""

    code = "certificate_request_invalid"


class InvalidReport(FleetError):
    code = "report_invalid"


class InvalidPolicy(FleetError):
    """A pool's health policy that cannot be followed; the message names what is wrong."""

    code = "policy_invalid"


class PolicyChanged(FleetError):
    """Somebody changed the policy since it was read."""

    code = "policy_changed"


class InvalidWindow(FleetError):
    code = "window_invalid"


class Leaving(FleetError):
    """The node leaves the fleet; whoever changes that calls it off first."""

    code = "node_leaving"


class NotReplaceable(FleetError):
    code = "not_replaceable"


class NotOpen(FleetError):
    """The rollout is over, or not in the state for this."""

    code = "rollout_not_open"


class NotCancellable(FleetError):
    """It has gone too far."""

    code = "not_cancellable"


class CredentialError(FleetError):
    """The agent did not prove who it is."""

    code = "credential_invalid"


class MissingCredential(CredentialError):
    code = "credential_missing"


class ExpiredCredential(CredentialError):
    code = "credential_expired"


class SupersededCredential(CredentialError):
    code = "credential_superseded"


class RevokedCredential(CredentialError):
    code = "credential_revoked"


class ClockSkew(CredentialError):
    code = "clock_skew"


class RemovedNode(FleetError):
    """The node was taken out of the fleet; its agent must stop what it runs."""

    code = "node_removed"
