"""What the tests of the embedding lane share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from provider_server import KEY, ProviderServer, count_tokens, vector

from kb_pipeline.config.schema import EmbedderConfig
from kb_pipeline.embed.lane import Finished, LaneReport, Pending, Progress, Refused
from kb_pipeline.embed.registry import Samples, make_embedder, make_lane


@dataclass
class Store:
    """Where a lane's results go in these tests, as Postgres does in a run: kept from run to run."""

    vectors: dict[bytes, np.ndarray] = field(default_factory=dict)
    refused: dict[str, Refused] = field(default_factory=dict)
    tokens: int = 0
    progress: list[Progress] = field(default_factory=list)
    breaker: list[tuple[str, str]] = field(default_factory=list)

    def keep(self, batch: Finished) -> None:
        """As `on_batch`: no text may come twice."""
        assert len(batch.fingerprints) == len(batch.vectors)
        for fingerprint, row in zip(batch.fingerprints, batch.vectors, strict=True):
            assert fingerprint not in self.vectors
            self.vectors[fingerprint] = row
        self.tokens += batch.tokens

    def refuse(self, refused: Refused) -> None:
        """As `on_refused`."""
        assert refused.pending.text not in self.refused
        self.refused[refused.pending.text] = refused

    def holds(self, server: ProviderServer, texts: Iterable[str]) -> None:
        """Assert that each text has the server's vector for it, and nothing else is here."""
        wanted = set(texts) - set(self.refused)
        assert self.vectors.keys() == {text.encode() for text in wanted}
        for text in wanted:
            np.testing.assert_allclose(
                self.vectors[text.encode()], vector(text, server.dims, server.model), atol=1e-5, err_msg=text
            )


def pending(texts: Iterable[str]) -> Iterable[Pending]:
    """The texts as a lane takes them."""
    for number, text in enumerate(texts):
        yield Pending(text.encode(), text, count_tokens(text), f"doc-{number}", number)


def config_for(server: ProviderServer, **options: object) -> EmbedderConfig:
    """A configuration for a server of this process. Its limits are for tests that wait for them: no answer that is
    only late on a busy machine may be asked for again."""
    values: dict[str, object] = {
        "provider": "openai",
        "model": server.model,
        "dims": server.dims,
        "base_url": server.url,
        "api_key_env": "KB_TEST_EMBED_KEY",
        "request_timeout_s": 60.0,
        "max_wait_s": 90.0,
        "breaker_reset_s": 0.5,
        "max_batch_inputs": 50,
    }
    return EmbedderConfig.model_validate({**values, **options})


def run_lane(
    config: EmbedderConfig, store: Store, texts: Iterable[str], *, samples: Samples | None = None
) -> LaneReport:
    """Run the lane over the texts that have no vector yet, as the next run of a pipeline would."""
    lane = make_lane(
        config, make_embedder(config), samples=samples, on_breaker=lambda *told: store.breaker.append(told)
    )
    missing = (text for text in texts if text.encode() not in store.vectors)
    return lane.run(pending(missing), on_batch=store.keep, on_refused=store.refuse, on_progress=store.progress.append)


__all__ = ["KEY", "ProviderServer", "Store", "config_for", "count_tokens", "pending", "run_lane", "vector"]
