"""What an eval run measures, as plain numbers. Everything here goes to `eval_runs.measurements` as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from evals.statistics import Comparison, Interval


@dataclass(frozen=True, slots=True)
class SweepPoint:
    """Recall against exact search at one `ef_search`, one query at a time."""

    ef_search: int | None
    """None: an exact scan, which has no width."""
    recall_10: float
    recall_20: float
    p50_ms: float
    p95_ms: float
    """Median and 95th percentile of searches for 10."""
    default: bool = False
    """What a request without a wish is served with (the default profile)."""


@dataclass(frozen=True, slots=True)
class FilteredRecall:
    """Recall@10 under a condition on metadata, against an exact search of what passes it."""

    target: float
    share: float
    """Of the chunks, that pass; near the target."""
    words: str
    recall_10: Interval
    p50_ms: float


@dataclass(frozen=True, slots=True)
class Throughput:
    """Queries per second with this many callers that each wait for their answer."""

    callers: int
    per_second: float


@dataclass(frozen=True, slots=True)
class Latency:
    """From the moment a query was due until its answer, in milliseconds, under an open-loop load."""

    p50_ms: float
    p95_ms: float
    p99_ms: float
    rate_per_second: float
    """Offered load; queries arrive at random moments and wait for no earlier answer."""
    queries: int
    throughput: tuple[Throughput, ...]
    p95_low_ms: float | None = None
    p95_high_ms: float | None = None
    """95 % interval of p95: moving-block bootstrap, because a stall is felt by many queries in a row."""


@dataclass(frozen=True, slots=True)
class Quality:
    """Retrieval quality on a golden set, as served with the default profile."""

    figures: Mapping[str, Interval]
    """Metric -> mean with its interval."""
    per_question: Mapping[str, Mapping[str, float]]
    """Metric -> question id -> value."""
    top: Mapping[str, Sequence[str]]
    """Question id -> the first five document ids."""
    right: Mapping[str, Sequence[int]] = field(default_factory=dict[str, Sequence[int]])
    """Question id -> places (from 1) of the right answers among the first hundred, the first three of them."""


@dataclass(frozen=True, slots=True)
class BuildMeasured:
    """One build, measured."""

    build_id: int
    version: int
    model: str
    """provider/model."""
    dims: int
    storage: str
    method: str
    params: Mapping[str, Any]
    state: str
    contents: int
    """Contents of committed documents."""
    vectors: int
    """Those that have this version's vector."""
    seconds: float | None
    """Wall time of the index build."""
    bytes: int | None
    """Size of the index on disk; None for an exact build."""
    created_at: str
    recall_10: Interval
    """Recall@10 with the default profile, over questions."""
    recall_20: Interval
    sweep: tuple[SweepPoint, ...]
    default: SweepPoint
    latency: Latency | None
    """None when there is nothing to search."""
    quality: Quality | None
    filtered: tuple[FilteredRecall, ...] = ()
    """Recall with metadata filters of about 50, 10 and 1 %, where the documents' metadata offers such."""

    @property
    def coverage(self) -> float:
        """Vectors / contents; an empty tenant is covered."""
        return self.vectors / self.contents if self.contents else 1.0


@dataclass(frozen=True, slots=True)
class Corpus:
    """The tenant's documents and chunks in numbers."""

    documents: int
    chunks: int
    contents: int
    tokens: int
    """Of all contents, each counted once."""
    orphans: int
    """Contents no chunk refers to any more, kept for the grace period."""
    dead_letters: int
    sizes: tuple[tuple[int, int], ...]
    """(tokens, contents with that many), ascending."""
    kinds: tuple[tuple[str, int], ...]
    """(kind, chunks), most first."""
    formats: tuple[tuple[str, int], ...]
    """(format, documents), most first."""
    languages: tuple[tuple[str, int], ...]
    """(text-search configuration, contents), most first."""

    @property
    def duplicates(self) -> int:
        """Chunks that share their text, context included, with an earlier one: embedded and indexed once."""
        return max(0, self.chunks - self.contents)


@dataclass(frozen=True, slots=True)
class Cost:
    """What embedding cost this tenant."""

    texts: int
    tokens: int
    usd: float
    last_usd: float
    """Of the newest run that embedded anything."""
    last_texts: int


@dataclass(frozen=True, slots=True)
class PastRun:
    """The headline of an earlier eval run, for the trend."""

    eval_id: int
    build_id: int
    created_at: str
    verdict: str
    recall_10: float | None
    ndcg_10: float | None
    p95_ms: float | None
    contents: int | None
    bytes: int | None
    usd: float | None = None
    """Spent on embedding so far."""


@dataclass(frozen=True, slots=True)
class Override:
    """A build that a person made live although its verdict was not a pass."""

    build_id: int
    eval_id: int | None
    """The eval run that was overridden; None: the build was not measured."""
    by: str
    why: str
    at: str


@dataclass(frozen=True, slots=True)
class StorageMeasured:
    """One index storage: recall and time at each width."""

    storage: str
    build_s: float
    bytes: int
    points: tuple[SweepPoint, ...]


@dataclass(frozen=True, slots=True)
class StorageTrial:
    """All that were tried, on the same vectors with the same questions."""

    rows: int
    """Vectors that were indexed."""
    of_rows: int
    """Vectors that the tenant has."""
    questions: int
    m: int
    ef_construction: int
    variants: tuple[StorageMeasured, ...]


@dataclass(frozen=True, slots=True)
class Measured:
    """All of one eval run: the build under test, the live one beside it, the corpus."""

    tenant_id: str
    created_at: str
    subject: BuildMeasured
    live: BuildMeasured | None
    """None when nothing is live, or the subject is the live build itself."""
    questions: int
    question_source: str
    """In words: where the questions of the recall figures come from."""
    golden: str | None
    """Name of the golden set."""
    golden_questions: Mapping[str, str]
    golden_problems: tuple[str, ...]
    golden_unknown: float
    comparisons: Mapping[str, Comparison]
    """Metric -> new against live; empty without both a golden set and a live build."""
    recall_comparison: Comparison | None
    corpus: Corpus
    cost: Cost
    hashes: Mapping[str, str]
    """corpus, labels, parameters."""
    versions: Mapping[str, str]
    """Software that measured."""
    seconds: float
    """Wall time of the eval run."""
    overrides: tuple[Override, ...] = ()
    """Decisions by force, oldest first; every later report shows them."""
    asked: tuple[str, ...] = ()
    """The questions of the recall figures, so that the run can be repeated."""
    golden_sha256: str | None = None
    """Which content of the golden set; `kb.golden_sets` keeps it."""
    golden_level: str = "document"
    golden_groups: Mapping[str, str] = field(default_factory=dict[str, str])
    """Question id -> group; where the set names none, by length."""
    golden_synthetic: int = 0
    """Judged questions that no person wrote."""
    titles: Mapping[str, str] = field(default_factory=dict[str, str])
    """Document id -> its first heading or first words, of those whose questions moved most."""
    storages: StorageTrial | None = None
    """Other ways of storing the index, where they were asked for."""
