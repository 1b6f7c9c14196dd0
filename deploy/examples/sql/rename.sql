-- Plain SQL in psql, without an application: a change and its event are one transaction.
--
-- psql "$DATABASE_URL" -v id=db_1 -v name=renamed -f rename.sql
\set ON_ERROR_STOP on
CREATE TABLE IF NOT EXISTS databases (
  id text PRIMARY KEY, installation_id text NOT NULL, name text NOT NULL
);

BEGIN;

UPDATE databases SET name = :'name' WHERE id = :'id';

INSERT INTO vercel_outbox (installation_id, type, resource_id)
SELECT installation_id, 'resource.updated', id FROM databases WHERE id = :'id';

-- If this fails, the event is rolled back with the change.
SELECT 1 / (length(:'name') > 0)::int AS has_a_name;

COMMIT;
