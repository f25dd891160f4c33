-- What the stages keep beside the first tables, and the layout of kb.contents.

ALTER TABLE kb.documents ADD COLUMN text_sha256 bytea;  -- of the text after its front matter: tells a metadata edit from a change
ALTER TABLE kb.tenants ADD COLUMN unsettled boolean NOT NULL DEFAULT false;  -- a run that began to add contents has not ended: some may have no chunk
ALTER TABLE kb.dead_letters ADD COLUMN tried_with text NOT NULL DEFAULT '';  -- chunker and embedder that refused: others try again

