import time

from evals.bench.chaos import *
from evals.bench.workspace import Workspace


def test_x(tmp_path, db):
    space = Workspace(tmp_path / "work", {"KB_DSN": db.dsn, **settings(tmp_path / "embedder")})
    docs = tmp_path / "docs"; write_documents(docs, 40, 1)
    space.configure(TOML.format(batch=BATCH, concurrency=CONCURRENCY, source=docs))
    for t in ("calm","calm","stormy","calm"):
        if t=="calm": change_documents(docs, 5)
        r=space.kb("run","--tenant",t); print(t,r.seconds,r.cpu_seconds)
    a=time.time(); space.chunks("--tenant","calm"); print("chunks",time.time()-a)
    a=time.time(); tenant_status(space,"calm"); print("status",time.time()-a)
