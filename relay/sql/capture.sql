-- name: next_page
-- Reads on from a position (see relay/capture/position.py). First one row that tells what was seen: the
-- snapshot of this very statement, the server and its incarnation (a pooler may lead each statement to
-- another one; on a standby it cannot be read at all), and the transactions whose rows are late. It is there for an empty page too, and alone has a state; the rows of the page follow, at most `limit`.
--
-- Algorithm: delivered are all rows visible in the position's snapshot and numbered up to its floor. A
--   row that is visible now was delivered, or is late (numbered up to the floor, its transaction ended
--   after the snapshot), or is fresh (numbered above the floor). `seq > floor` alone would lose the late
--   ones; the order of transaction ids would reverse two writers of one aggregate.
-- ended: a transaction that ended after the snapshot was running then, so the snapshot lists it
--   (`running`) or it is not below its xmax (`beyond`): xmax follows the last transaction that had
--   *completed*, so later ones ran already and may have drawn numbers below the floor. Those are found
--   through their rows. During a late pass its transactions are `given`, and the two others are empty.
-- late: the numbers of these, each transaction by its own range of the index (transaction_id, seq).
-- fresh: none unless the late ones are all there (and none during a late pass), so that late come first.
--
-- Planner: whatever the statistics say, a page may touch nothing but its own ranges of the two indexes.
--   A comparison of rows can be served by the index (transaction_id, seq) alone; ordered by `seq` with a
--   LIMIT, the planner walks the primary key through all that was ever delivered. MATERIALIZED and
--   OFFSET 0 keep the parts apart. Of an array that a subquery makes it expects ten elements, and of a
--   range with two ends little: without statistics the estimates would else pass the cost at which the
--   server compiles the plan (jit_above_cost), and 2 ms become 140. For the same reason late rows come
--   in smaller pages. The inner LIMIT of the fresh ones is a constant, because with an unknown one the
--   planner expects a tenth of the table.
WITH ended AS MATERIALIZED (
    SELECT unnest(ARRAY(
        SELECT x
          FROM unnest(%(running)s::xid8[]) AS x
         WHERE pg_visible_in_snapshot(x, (SELECT pg_current_snapshot()))
        UNION
        SELECT transaction_id
          FROM outbox_event
         WHERE transaction_id BETWEEN %(beyond)s::xid8 AND '18446744073709551615'
           AND seq <= %(floor)s::bigint
        UNION
        SELECT unnest(%(given)s::xid8[])
    )) AS x
),
late AS MATERIALIZED (
    SELECT number.seq
      FROM ended
     CROSS JOIN LATERAL (
        SELECT e.seq
          FROM outbox_event AS e
         WHERE ROW(e.transaction_id, e.seq) > ROW(ended.x, %(cursor)s::bigint)
           AND ROW(e.transaction_id, e.seq) <= ROW(ended.x, %(floor)s::bigint)
         ORDER BY e.transaction_id, e.seq
         LIMIT %(late)s::bigint
     ) AS number
     ORDER BY number.seq
     LIMIT %(late)s::bigint
)
SELECT 0::bigint AS seq, NULL::text AS id, NULL::text AS source, NULL::text AS type,
       NULL::integer AS version, NULL::text AS subject, NULL::text AS partition_key,
       NULL::text AS topic, NULL::timestamptz AS time, NULL::text AS content_type,
       NULL::bytea AS data, NULL::text AS headers, '0'::xid8 AS transaction_id,
       json_build_object(
           'snapshot', pg_current_snapshot()::text,
           'system', (SELECT system_identifier::text FROM pg_control_system()),
           'incarnation', (SELECT incarnation.id FROM outbox_incarnation AS incarnation),
           'ended', (SELECT json_agg(x) FROM ended)
       )::text AS state
UNION ALL
SELECT r.*, NULL
  FROM late
 CROSS JOIN LATERAL (
    SELECT seq, id::text, source, type, version, subject, partition_key, topic, time,
           content_type, data, nullif(headers, '{}')::text, transaction_id
      FROM outbox_event
     WHERE outbox_event.seq = late.seq
    OFFSET 0
 ) AS r
UNION ALL
(
    SELECT r.*, NULL
      FROM (
        SELECT seq, id::text, source, type, version, subject, partition_key, topic, time,
               content_type, data, nullif(headers, '{}')::text, transaction_id
          FROM outbox_event
         WHERE seq > %(floor)s::bigint
         ORDER BY seq
         LIMIT %(fresh)s::bigint
      ) AS r
     ORDER BY r.seq
     LIMIT (
        SELECT CASE WHEN count(*) < %(late)s::bigint
                    THEN greatest(%(fresh)s::bigint - count(*), 0) ELSE 0 END
          FROM late
     )
);

-- name: backlog
-- Counts what next_page would read on from a position, and tells the time of the first of it. During a
-- late pass that is the rest of the pass (`given` above `cursor`), then what is late after its target.
WITH ended AS MATERIALIZED (
    SELECT x, 0::bigint AS cursor
      FROM unnest(ARRAY(
        SELECT x
          FROM unnest(%(running)s::xid8[]) AS x
         WHERE pg_visible_in_snapshot(x, (SELECT pg_current_snapshot()))
        UNION
        SELECT transaction_id
          FROM outbox_event
         WHERE transaction_id BETWEEN %(beyond)s::xid8 AND '18446744073709551615'
           AND seq <= %(floor)s::bigint
      )) AS x
     UNION ALL
    SELECT x, %(cursor)s::bigint
      FROM unnest(%(given)s::xid8[]) AS x
),
late AS MATERIALIZED (
    SELECT count(*) AS pending, min(number.seq) AS first
      FROM ended
     CROSS JOIN LATERAL (
        SELECT e.seq
          FROM outbox_event AS e
         WHERE ROW(e.transaction_id, e.seq) > ROW(ended.x, ended.cursor)
           AND ROW(e.transaction_id, e.seq) <= ROW(ended.x, %(floor)s::bigint)
           AND e.transaction_id BETWEEN ended.x AND ended.x
     ) AS number
),
fresh AS MATERIALIZED (
    SELECT count(*) AS pending, min(seq) AS first
      FROM outbox_event
     WHERE seq > %(floor)s::bigint
)
SELECT late.pending + fresh.pending,
       (SELECT time FROM outbox_event WHERE seq = coalesce(late.first, fresh.first))
  FROM late CROSS JOIN fresh;

-- name: now
-- The highest number seen and the snapshot it was seen in: a writer that drew a smaller number and has
-- not committed yet is not in the snapshot, so its rows are late, not lost.
SELECT coalesce(max(seq), 0), pg_current_snapshot()::text FROM outbox_event;

-- name: is_standby
-- A standby's snapshots list no running transaction, so late rows would be lost there.
SELECT pg_is_in_recovery();

-- name: numbering
-- How numbers are drawn. Numbers cached by a session, or drawn downwards or in a circle, tell nothing
-- about the order in which locks were held.
SELECT parameters.seqcache, parameters.seqincrement, parameters.seqcycle, parameters.seqrelid::regclass::text
  FROM pg_sequence AS parameters
 WHERE parameters.seqrelid = pg_get_serial_sequence('outbox_event', 'seq')::regclass;

-- name: server
SELECT system_identifier::text, (SELECT incarnation.id::text FROM outbox_incarnation AS incarnation)
  FROM pg_control_system();

-- name: begin_incarnation
-- The table is unlogged, so it is empty after a crash, a fail-over, a restore or a clone.
INSERT INTO outbox_incarnation DEFAULT VALUES ON CONFLICT DO NOTHING;
