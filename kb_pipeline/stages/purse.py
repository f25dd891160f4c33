"""What a run may cost, and what it has cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kb_pipeline.embed.lane import Finished, Pending
from kb_pipeline.embed.prices import LaneName
from kb_pipeline.embed.protocol import EmbedderSpec
from kb_pipeline.errors import BudgetExceeded, ConfigError
from kb_pipeline.stages.context import StageContext
from kb_pipeline.stages.wanted import usd
from kb_pipeline.store.spend import add_spend, spent, spent_this_month_usd

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.rows import TupleRow


class Purse:
    """Keeps the books of one run. Refuses to start, or stops between batches, when a limit would be passed."""

    def __init__(self, ctx: StageContext, conn: Connection[TupleRow], *, max_cost: float | None) -> None:
        budget = ctx.tenant.budget
        of_run = [limit for limit in (max_cost, budget.max_cost_per_run) if limit is not None]
        self._ctx = ctx
        self._conn = conn
        self._limit = min(of_run) if of_run else None
        self._monthly = budget.monthly_usd
        self._before = 0.0
        self._month = 0.0
        self._admitted = 0.0
        self._spent = 0.0
        self.look_again()

    def look_again(self) -> None:
        """Read what was spent again, after batch jobs were collected."""
        self._before = spent(self._conn, self._ctx.tenant_id, run_id=self._ctx.run_id).usd
        if self._monthly is not None:
            self._month = spent_this_month_usd(self._conn, self._ctx.tenant_id)

    def require(self, estimate_usd: float, *, price_known: bool = True) -> None:
        """Raise `BudgetExceeded` when what is to come does not fit, `ConfigError` when nobody can say what it costs."""
        if not price_known and (self._limit is not None or self._monthly is not None):
            raise ConfigError(
                f"there is a budget, but the price of {self._ctx.tenant.embedder.model!r} is not known: "
                "set embedder.usd_per_million_tokens (0 for a server of your own)"
            )
        self._check(estimate_usd, "embedding everything would")

    def admit(self, spec: EmbedderSpec, batch: Sequence[Pending], *, lane: LaneName = "sync") -> None:
        """Count texts that are about to be sent. Raises `BudgetExceeded` when they do not fit any more."""
        cost = usd(self._ctx.tenant.embedder, spec, sum(pending.tokens for pending in batch), lane=lane)
        self._check(max(self._admitted, self._spent) + cost, "the next batch would")
        self._admitted += cost

    def pay(self, spec: EmbedderSpec, finished: Finished) -> None:
        """Write down what a batch cost, in the transaction that commits its vectors; nothing for a vector we had."""
        if finished.requests == finished.tokens == 0:
            return
        cost = usd(self._ctx.tenant.embedder, spec, finished.tokens)
        self._spent += cost
        add_spend(
            self._conn,
            self._ctx.tenant_id,
            self._ctx.run_id,
            model=spec.model,
            lane="sync",
            texts=len(finished.fingerprints),
            tokens=finished.tokens,
            usd=cost,
            requests=finished.requests,
            retries=finished.retries,
        )

    def save(self, model: str, spec_usd: float, *, texts: int, tokens: int) -> None:
        """Write down what fingerprints saved."""
        if texts > 0:
            add_spend(
                self._conn,
                self._ctx.tenant_id,
                self._ctx.run_id,
                model=model,
                lane="sync",
                saved_texts=texts,
                saved_tokens=tokens,
                saved_usd=spec_usd,
            )

    def sent_again(self, model: str, texts: int) -> None:
        """Write down how many texts may have been paid for twice."""
        if texts > 0:
            add_spend(
                self._conn, self._ctx.tenant_id, self._ctx.run_id, model=model, lane="sync", paid_again_texts=texts
            )

    @property
    def spent_usd(self) -> float:
        """By this run."""
        return self._before + self._spent

    def _check(self, to_come: float, what: str) -> None:
        if self._limit is not None and self._before + to_come > self._limit:
            raise BudgetExceeded(
                f"{what} bring this run to ${self._before + to_come:.4f}, above the ${self._limit:.4f} it may cost "
                f"(--max-cost, budget.max_cost_per_run); spent: ${self.spent_usd:.4f}. What was embedded is kept"
            )
        if self._monthly is not None and self._month + to_come > self._monthly:
            raise BudgetExceeded(
                f"{what} bring this month to ${self._month + to_come:.4f}, above budget.monthly_usd = "
                f"{self._monthly:g}; "
                f"spent: ${self._month + self._spent:.4f}. What was embedded is kept"
            )
