-- name: next_page
-- Reads on from a position (see relay/capture/position.py). First one row that tells what was seen, in
-- the column `headers`: the snapshot of this very statement, the server and its incarnation (a pooler may
-- lead each statement to another one; on a standby it cannot be read at all), the transactions whose rows
-- are late, and what was left for another page. It is there for an empty page too; the rows follow.
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
-- Both are at most `late` and `fresh` rows. Where the data of either comes to more than `bytes`, none of
--   it is fetched: what was found is told, and the page is read again with fewer rows.
-- foreign: a row that is visible although its transaction is still to come was written elsewhere.
-- Text is sent as the bytes that a broker takes, and so are times, in the one form that is cheap to
--   make and depends on no setting of the session: to_char takes as long as all other columns together.
--   Empty headers are left out by CASE: nullif would take a seventh of the server's time for a page.
--
-- Planner: whatever the statistics say, a page may touch nothing but its own ranges of the two indexes,
--   and one plan has to do for every position. A comparison of rows can be served by the index
--   (transaction_id, seq) alone; ordered by `seq` with a LIMIT, the planner walks the primary key through
--   all that was ever delivered. MATERIALIZED and OFFSET 0 keep the parts apart. `lead_planner` takes away
--   the plans that are worse for a large table and looked good when it was small, and the compiler of
--   plans: for millions of rows that were never analyzed, or for many partitions, the estimates pass the
--   cost at which it sets in (jit_above_cost), and 2 ms become 140. For the same reason late rows come in
--   smaller pages, and in arrays made by subqueries, of which the planner expects ten elements.
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
    SELECT number.seq, number.size
      FROM ended
     CROSS JOIN LATERAL (
        SELECT e.seq, octet_length(e.data) AS size
          FROM outbox_event AS e
         WHERE ROW(e.transaction_id, e.seq) > ROW(ended.x, %(cursor)s::bigint)
           AND ROW(e.transaction_id, e.seq) <= ROW(ended.x, %(floor)s::bigint)
         ORDER BY e.transaction_id, e.seq
         LIMIT %(late)s::bigint
     ) AS number
     ORDER BY number.seq
     LIMIT %(late)s::bigint
),
late_sum AS MATERIALIZED (
    SELECT count(*) AS count, coalesce(sum(size), 0) AS bytes FROM late
),
fresh_sum AS MATERIALIZED (
    SELECT count(*) AS count, coalesce(sum(size), 0) AS bytes,
           min(seq) FILTER (WHERE is_foreign) AS foreign_seq
      FROM (
        SELECT seq, octet_length(data) AS size,
               transaction_id >= (SELECT pg_snapshot_xmax(pg_current_snapshot())) AS is_foreign
          FROM outbox_event
         WHERE seq > %(floor)s::bigint
         ORDER BY seq
         LIMIT %(fresh)s::bigint
      ) AS sized
)
SELECT 0::bigint AS seq, NULL::text AS id, NULL::text AS source, NULL::text AS type,
       NULL::integer AS version, NULL::text AS subject, NULL::text AS partition_key,
       NULL::text AS topic, NULL::text AS time, NULL::text AS content_type, NULL::bytea AS data,
       json_build_object(
           'snapshot', pg_current_snapshot()::text,
           'system', (SELECT system_identifier::text FROM pg_control_system()),
           'incarnation', (SELECT incarnation.id FROM outbox_incarnation AS incarnation),
           'ended', (SELECT json_agg(x) FROM ended),
           'late_count', late_sum.count,
           'late_bytes', late_sum.bytes,
           'fresh_count', fresh_sum.count,
           'fresh_bytes', fresh_sum.bytes,
           'foreign_seq', fresh_sum.foreign_seq
       )::text AS headers
  FROM late_sum CROSS JOIN fresh_sum
UNION ALL
SELECT r.*
  FROM late
 CROSS JOIN LATERAL (
    SELECT seq, id::text, coalesce(source, %(source)s), type, version, subject, partition_key, topic,
           to_json(time AT TIME ZONE 'UTC')::text,
           content_type, data, CASE WHEN headers <> '{}' THEN headers::text END
      FROM outbox_event
     WHERE outbox_event.seq = late.seq
    OFFSET 0
 ) AS r
 WHERE (SELECT bytes <= %(bytes)s::bigint OR count = 1 FROM late_sum)
UNION ALL
(
    SELECT r.*
      FROM (
        SELECT seq, id::text, coalesce(source, %(source)s), type, version, subject, partition_key, topic,
               to_json(time AT TIME ZONE 'UTC')::text,
               content_type, data, CASE WHEN headers <> '{}' THEN headers::text END
          FROM outbox_event
         WHERE seq > %(floor)s::bigint
         ORDER BY seq
         LIMIT %(fresh)s::bigint
      ) AS r
     ORDER BY r.seq
     LIMIT (
        SELECT CASE WHEN late_sum.count < %(late)s::bigint
                     AND (late_sum.bytes <= %(bytes)s::bigint OR late_sum.count = 1)
                     AND (fresh_sum.bytes <= %(bytes)s::bigint OR fresh_sum.count = 1)
                    THEN greatest(%(fresh)s::bigint - late_sum.count, 0) ELSE 0 END
          FROM late_sum CROSS JOIN fresh_sum
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

-- name: session
SELECT pg_backend_pid();

-- name: lead_planner
-- For a session of one's own, or where somebody else has the session next, for this transaction alone.
-- A plan for all positions is a prepared one.
SELECT set_config('jit', 'off', %(is_local)s),
       set_config('enable_seqscan', 'off', %(is_local)s),
       set_config('enable_bitmapscan', 'off', %(is_local)s),
       set_config('plan_cache_mode', 'force_generic_plan', %(is_local)s);

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
