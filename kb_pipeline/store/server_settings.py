"""Settings of a new embedded server, written once, when its data folder is made. `ALTER SYSTEM` wins over them."""

from __future__ import annotations

import os

_MB = 1024 * 1024


def settings_file(major: int) -> str:
    """Text of `kb.conf` for this machine: each number with its reason."""
    memory_mb = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // _MB
    cores = os.cpu_count() or 1
    shared_mb = min(max(memory_mb // 8, 128), 1024)
    return f"""\
# Written once by kb_pipeline for Postgres {major}. Change values with ALTER SYSTEM, which wins over this file.
# fsync, full_page_writes and synchronous_commit keep their safe defaults: a paid vector is never lost.

# An eighth of memory, 128 MB to 1 GB: an HNSW index should stay in memory (100,000 x 256 dims: 130 MB), and the
# machine is shared with the run itself, which is why it is not the usual quarter.
shared_buffers = {shared_mb}MB
effective_cache_size = {max(memory_mb // 2, 256)}MB
# Sorts and hash joins of a planning pass over 100,000s of rows stay in memory; few queries run at once.
work_mem = 16MB
# VACUUM and plain index builds. An HNSW build computes and sets its own.
maintenance_work_mem = 256MB
# Dagster's webserver, daemon and code servers keep about 40 connections at worst; the engine's pools at most 8 each.
max_connections = 100
# A query on `contents` locks 8 partitions with all their indexes, two for each tenant with an HNSW index: the default
# of 64 ends at some dozens of tenants in one transaction. 256 x 100 connections is 25,600 locks, about 7 MB.
max_locks_per_transaction = 256
# Parallel HNSW builds need workers beside autovacuum; the build sets how many it takes.
max_worker_processes = {max(8, 2 * cores)}
max_parallel_workers = {max(2, cores)}
max_parallel_maintenance_workers = {max(2, cores)}
# Bulk loads: fewer checkpoints, each of which makes every page be logged whole again; smaller full pages.
max_wal_size = 2GB
checkpoint_timeout = 15min
wal_compression = on
# SSD: a random page costs about as much as a sequential one, so that index plans are chosen.
random_page_cost = 1.1
# Search takes a millisecond: compiling a plan costs more than it can win.
jit = off
# Row churn of embedding back-fills: vacuum after 5 % changed rows, not 20 %.
autovacuum_vacuum_scale_factor = 0.05
autovacuum_analyze_scale_factor = 0.05
# What a person looks for in the log: who waited for whom, who was it. Not every checkpoint.
log_line_prefix = '%m [%p] %u@%d %a '
log_lock_waits = on
log_checkpoints = off
"""
