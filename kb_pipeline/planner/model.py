"""The planner's words: what a tenant should be (desired), what Postgres says it is (actual), what to do (actions)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kb_pipeline.embed.protocol import EmbedderSpec

Method = Literal["exact", "hnsw"]
BuildState = Literal["building", "candidate", "live", "previous", "dropped", "failed"]
VersionState = Literal["backfilling", "complete", "live", "previous", "retired"]


@dataclass(frozen=True, slots=True)
class IndexParams:
    """Parameters of an HNSW index; `storage` is how the column is indexed (`vector`, `halfvec`, `binary`)."""

    m: int
    ef_construction: int
    storage: str

    def __str__(self) -> str:
        """For a person."""
        return f"m={self.m} ef_construction={self.ef_construction} {self.storage}"


@dataclass(frozen=True, slots=True)
class Desired:
    """A tenant's configuration, resolved."""

    tenant_id: str
    spec: EmbedderSpec
    index: IndexParams
    exact_below_rows: int
    """Fewer contents than this are scanned exactly, without an index."""
    review: bool = False
    """A person approves what passed, so waiting for one is not something to do."""
    recall_floor: float = 0.0
    """Recall@10 below which an eval run counts as bad."""
    max_neighbours: int = 1_000_000
    """With this many HNSW indexes of other tenants in its partition, a tenant without one is scanned."""


@dataclass(frozen=True, slots=True)
class VersionFacts:
    """One embedding version as far as one tenant is concerned."""

    version: int
    spec: EmbedderSpec
    state: VersionState | None
    """None: the version exists (another tenant's), this tenant has no part in it yet."""
    missing: int
    """Contents a chunk refers to that lack this version's vector."""


@dataclass(frozen=True, slots=True)
class BuildFacts:
    """One build that still exists."""

    build_id: int
    version: int
    method: Method
    slot: str | None
    params: IndexParams | None
    """None for an exact build."""
    rows_at_build: int
    deleted_at_build: int
    state: BuildState
    verdict: str | None
    """`pass` or `fail` of its newest eval run, None when it was never measured."""
    index_name: str | None = None


@dataclass(frozen=True, slots=True)
class LiveFacts:
    """What the tenant serves from."""

    version: int
    build_id: int
    previous_version: int | None
    previous_build_id: int | None


@dataclass(frozen=True, slots=True)
class Measure:
    """The numbers of one eval run that a trigger looks at; None where it was not measured."""

    recall: float | None
    p95_ms: float | None


@dataclass(frozen=True, slots=True)
class QualityFacts:
    """How the live build was measured, at its promotion and since."""

    at_promotion: Measure | None
    since: tuple[Measure, ...]
    """Eval runs of the live build after its promotion, newest first; three are enough."""
    made_for: str = ""
    """The trigger that the live build was built for."""
    before: Measure | None = None
    """Of a build made for `quality`: what was measured of the build before it, when the trigger fired."""


@dataclass(frozen=True, slots=True)
class Actual:
    """A tenant as Postgres has it, read in one snapshot."""

    tenant_id: str
    contents: int
    """Contents that a chunk refers to."""
    inserted_total: int
    deleted_total: int
    versions: tuple[VersionFacts, ...]
    builds: tuple[BuildFacts, ...]
    """Builds in state building, candidate, live or previous, and those dropped with a verdict since the live build was
    made: what was refused, or rolled back from, is not built again for the same cause."""
    live: LiveFacts | None
    quality: QualityFacts | None = None
    """None while nothing is live."""
    neighbours: int = 0
    """HNSW indexes of other tenants in the tenant's partition."""


@dataclass(frozen=True, slots=True)
class EnsureVersion:
    """Make the embedding version of this spec exist for the tenant (column, rows); the number may be a known one."""

    spec: EmbedderSpec
    version: int | None
    """The number it has already, None when the version is to be created."""


@dataclass(frozen=True, slots=True)
class Backfill:
    """Give every content a vector of this version."""

    version: int | None
    """None: the version that `EnsureVersion` of the same plan creates."""
    missing: int


@dataclass(frozen=True, slots=True)
class Build:
    """Make a candidate build beside what is live."""

    version: int | None
    method: Method
    params: IndexParams | None
    trigger: str
    """first, growth, churn, parameters, model, quality, asked."""
    reason: str
    """One sentence with the numbers."""
    numbers: tuple[tuple[str, float], ...] = ()
    """The numbers of the reason by name, kept with the build."""


@dataclass(frozen=True, slots=True)
class Evaluate:
    """Measure this build (None: the one that `Build` of the same plan makes)."""

    build_id: int | None


@dataclass(frozen=True, slots=True)
class Promote:
    """Make this build live if its verdict and the review mode allow."""

    build_id: int | None


Action = EnsureVersion | Backfill | Build | Evaluate | Promote


@dataclass(frozen=True, slots=True)
class Plan:
    """What has to be done for one tenant, in order; empty when actual is desired."""

    tenant_id: str
    actions: tuple[Action, ...]

    @property
    def empty(self) -> bool:
        """Nothing has to be done."""
        return not self.actions

    @property
    def rebuild(self) -> Build | None:
        """The build that is to be made, if any."""
        return next((action for action in self.actions if isinstance(action, Build)), None)

    @property
    def reasons(self) -> list[str]:
        """One sentence for each thing to do, for a person."""
        return [sentence(action) for action in self.actions]


def sentence(action: Action) -> str:
    """An action in words."""
    match action:
        case EnsureVersion(spec, None):
            return f"add an embedding version for {spec.provider}/{spec.model}, {spec.dims} dims as {spec.storage}"
        case EnsureVersion(spec, version):
            return f"use embedding version v{version} ({spec.provider}/{spec.model}, {spec.dims} dims)"
        case Backfill(version, missing):
            return f"embed {missing} contents that lack a vector of {named(version)}"
        case Build(version, method, _, trigger, reason):
            return f"build {method} for {named(version)} ({trigger}): {reason}"
        case Evaluate(build_id):
            return f"measure {'the new build' if build_id is None else f'build {build_id}'}"
        case Promote(build_id):
            return f"promote {'the new build' if build_id is None else f'build {build_id}'} if it passes"


def named(version: int | None) -> str:
    """`v3`, or words for a version that has no number yet."""
    return "the new version" if version is None else f"v{version}"
