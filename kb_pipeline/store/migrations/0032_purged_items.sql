-- A text that is with a batch job may be purged meanwhile: what comes back for it is billed, and not kept.
ALTER TABLE kb.batch_items ADD COLUMN forgotten boolean NOT NULL DEFAULT false;
