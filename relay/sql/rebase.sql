-- name: keep_writers_out
-- The mode that the change of the constraint needs later: a stronger one taken then could deadlock.
LOCK TABLE outbox_event IN ACCESS EXCLUSIVE MODE;

-- name: delivered
-- The number below the first undelivered row, or else the highest one; and the delivered rows above it.
-- Whether a row was delivered is what the position says, on ids that the old server gave. Rows that the
-- new server has numbered since lie above every floor, whatever their ids.
WITH event AS MATERIALIZED (
    SELECT seq,
           (seq <= :floor AND pg_visible_in_snapshot(transaction_id, CAST(:snapshot AS pg_snapshot)))
           OR (seq <= :cursor AND transaction_id = ANY (CAST(CAST(:transactions AS text[]) AS xid8[])))
           AS is_delivered
      FROM outbox_event
),
last AS (
    SELECT coalesce(min(seq) FILTER (WHERE NOT is_delivered) - 1, max(seq), 0) AS floor FROM event
)
SELECT last.floor, (SELECT count(*) FROM event WHERE is_delivered AND event.seq > last.floor)
  FROM last;

-- name: stamp
-- With writers kept out, a row that is visible although its transaction has not ended was not written
-- here. Id 3 is the first that any server gives, and has ended on each.
UPDATE outbox_event
   SET transaction_id = '3'
 WHERE NOT pg_visible_in_snapshot(transaction_id, pg_current_snapshot());

-- name: snapshot
SELECT pg_current_snapshot()::text;
