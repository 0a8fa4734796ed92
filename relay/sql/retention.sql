-- name: waiting_shortly
-- Who has to wait for a lock gives up: whatever holds it matters more than what is deleted here.
SELECT set_config('lock_timeout', '200ms', true);

-- name: lock_events
-- First of all, so that the order of locks is that of `outbox relay --rebase`, and before the positions are
-- read, so that no rebase comes in between. Writers and readers take no notice of it.
LOCK TABLE outbox_event IN ROW EXCLUSIVE MODE;

-- name: lock_events_for_reading
LOCK TABLE outbox_event IN ACCESS SHARE MODE;

-- name: system
SELECT system_identifier::text FROM pg_control_system();

-- name: delete_events
-- Walks on from a cursor over `size` rows, and deletes those of them that are old enough and delivered on
-- every route: numbered up to the floor of each, and visible in the snapshot of each. What is delivered is
-- never read again, so no reader misses it; and it is settled by definition, so no late row is among it.
--
-- Planner: numbers come as an array made by a subquery, of which it expects ten elements, so the rows are
--   found through the primary key whatever the statistics say. Snapshots are parsed once.
WITH position AS MATERIALIZED (
    SELECT CAST(each AS pg_snapshot) AS snapshot FROM unnest(CAST(:snapshots AS text[])) AS each
),
batch AS MATERIALIZED (
    SELECT seq, transaction_id, time
      FROM outbox_event
     WHERE seq > :cursor AND seq <= :floor
     ORDER BY seq
     LIMIT :size
),
expired AS MATERIALIZED (
    SELECT seq
      FROM batch
     WHERE time < clock_timestamp() - make_interval(secs => :age)
       AND NOT EXISTS (
           SELECT FROM position WHERE NOT pg_visible_in_snapshot(batch.transaction_id, position.snapshot)
       )
),
gone AS (
    DELETE FROM outbox_event WHERE seq = ANY (ARRAY(SELECT seq FROM expired)) RETURNING seq
)
SELECT (SELECT count(*) FROM gone) AS deleted,
       count(*) AS read,
       max(seq) AS last,
       min(seq) FILTER (WHERE seq NOT IN (SELECT seq FROM expired)) AS kept,
       coalesce(min(time) > clock_timestamp(), false) AS is_ahead
  FROM batch;

-- name: delete_chosen_outbox_event
-- MariaDB: locks the rows that were chosen, one after the other, and none beside them. A row that has become
-- young again stays.
--
-- Planner: it would rather walk through a small table than look its rows up, and lock all of them.
DELETE gone
  FROM JSON_TABLE(:keys, '$[*]' COLUMNS (seq bigint PATH '$[0]')) AS chosen
  STRAIGHT_JOIN outbox_event AS gone FORCE INDEX (PRIMARY) ON gone.seq = chosen.seq
 WHERE gone.time <= :latest;

-- name: delete_chosen_outbox_dead_letter
DELETE gone
  FROM JSON_TABLE(:keys, '$[*]' COLUMNS (id bigint PATH '$[0]')) AS chosen
  STRAIGHT_JOIN outbox_dead_letter AS gone FORCE INDEX (PRIMARY) ON gone.id = chosen.id
 WHERE gone.resolved_at <= :latest;

-- name: delete_chosen_outbox_inbox
DELETE gone
  FROM JSON_TABLE(:keys, '$[*]' COLUMNS (
           consumer varbinary(1000) PATH '$[0]',
           source varbinary(1000) PATH '$[1]',
           event_id varbinary(1000) PATH '$[2]'
       )) AS chosen
  STRAIGHT_JOIN outbox_inbox AS gone FORCE INDEX (PRIMARY)
     ON gone.consumer = chosen.consumer
    AND gone.source = chosen.source
    AND gone.event_id = chosen.event_id
 WHERE gone.processed_at <= :latest;
