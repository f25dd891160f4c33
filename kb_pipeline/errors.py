"""Every error a person can meet. Each writes its own message: what was asked, what was found, what to do."""

from __future__ import annotations


class KbError(Exception):
    """Base of all errors of this package; `exit_code` is what `kb` ends with."""

    exit_code: int = 1


class ConfigError(KbError):
    """The configuration, a command line or the environment asks for something that cannot be done."""

    exit_code = 2


class UnsupportedPostgres(ConfigError):
    """The server or its pgvector is older than what is needed, or pgvector is missing."""


class SourceError(KbError):
    """The source as a whole cannot be read; nothing was changed."""


class MassDeletionRefused(SourceError):
    """The source lists far fewer documents than are indexed, so deleting them was refused."""


class DocumentRefused(KbError):
    """One document cannot be indexed; it is quarantined with this reason and the others go on."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        """Short stable code, for example `invalid-utf8`; what `dead-letters` groups by."""
        self.detail = detail
        """One sentence for a person: what was found where, and what to do."""


class StaleStage(KbError):
    """A staged output does not follow from the tenant's present state; the message names the asset to run first."""


class MissingChunks(KbError):
    """Postgres shows contents without a vector after a run that should have made them all."""


class EmbedderError(KbError):
    """The embedder answered with something unusable (dimensions, not finite, zero, wrong count)."""


class ProviderUnavailable(KbError):
    """The provider cannot serve now; what was done is kept, run again later."""

    exit_code = 75


class BudgetExceeded(KbError):
    """Going on would cost more than allowed; what was done is kept."""

    exit_code = 75


class BatchesPending(KbError):
    """Batch jobs are at the provider; the run goes on when they are done."""

    exit_code = 4


class TenantBusy(KbError):
    """Another run holds the tenant's lock."""

    exit_code = 75


class IndexBuildError(KbError):
    """The index could not be built as asked; the live one was not touched."""


class MigrationHeld(KbError):
    """A person paused or aborted the change of model; what was done is kept."""

    exit_code = 75


class GateRefused(KbError):
    """The candidate was measured and may not go live; the live build stays."""

    exit_code = 5


class NotLive(KbError):
    """The tenant serves nothing yet, or not the version that was asked for."""


class UnknownTenant(ConfigError):
    """No such tenant in the configuration or the database."""
