-- What the stages keep beside the first tables, and the layout of kb.contents.

ALTER TABLE kb.documents ADD COLUMN text_sha256 bytea;  -- of the text after its front matter: tells a metadata edit from a change
ALTER TABLE kb.tenants ADD COLUMN unsettled boolean NOT NULL DEFAULT false;  -- a run that began to add contents has not ended: some may have no chunk
ALTER TABLE kb.dead_letters ADD COLUMN tried_with text NOT NULL DEFAULT '';  -- chunker and embedder that refused: others try again

-- The layout of contents, measured with `python -m evals.bench.contents_layout` (10,000 rows, 256 d, Postgres 18, 2 cores; bodies of
-- 200 / 600 / 1,200 characters; HOT: share of HOT updates while a second vector column is filled, a fiftieth of the rows a commit):
--   fillfactor, toast_tuple_target, first vector    heap MB              HOT %               exact scan of 5,000 rows
--   100, default, EXTERNAL                          13.7 / 20.5 / 11.7   79   / 50   / 69    1-3 ms
--    70, default, EXTERNAL                          20.5 / 27.3 / 20.5   100  / 98.2 / 100   1-2 ms
--    45, default, EXTERNAL                          41.0 / 41.0 / 27.3   100  / 100  / 100   2-3 ms
--    70, 128, EXTERNAL                              20.5 / 27.3 /  1.8   100  / 100  / 100   1 / 2 / 11 ms: each vector is fetched from TOAST
--    80, 1400, MAIN                                 20.5 / 27.3 / 16.4   100  / 100  / 99.9  2-4 ms
--    70, 1400, MAIN (chosen)                        20.5 / 27.3 / 20.5   100  / 100  / 100   1-3 ms
-- There is no tsvector beside the vectors while nothing searches for words: a generated one with its GIN index took 1.2 of the 1.4 s
-- of an insert of 13,480 contents of the PowerShell documentation, and a fifth of the space.
-- A non-HOT update puts the row into every HNSW index again, so the third of the space that fillfactor 70 leaves is well spent; 45
-- costs up to twice the heap, a target of 128 makes the exact scan of long texts several times slower. A target of 1,400 moves long
-- texts and further vectors out of line, MAIN leaves the first vector in (rows up to 2,032 bytes are never touched by TOAST).
-- The columns' own storage is chosen where they are added: store/versions.py.
DO $$
BEGIN
    FOR i IN 0..7 LOOP
        EXECUTE format('ALTER TABLE kb.contents_p%s SET (fillfactor = 70, toast_tuple_target = 1400)', i);
    END LOOP;
END $$;
