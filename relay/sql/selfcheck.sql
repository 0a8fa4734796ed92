-- name: settings
-- What this session goes by; each role may have its own.
SELECT name, setting
  FROM pg_settings
 WHERE name IN (
    'server_version', 'server_version_num', 'server_encoding', 'synchronous_commit', 'fsync', 'full_page_writes',
    'default_transaction_isolation', 'default_transaction_read_only', 'statement_timeout', 'lock_timeout',
    'idle_session_timeout', 'transaction_timeout',
    'max_connections', 'superuser_reserved_connections'
 );

-- name: connections
-- Every role may read these; which of its lines pg_stat_activity fills depends on the role.
SELECT coalesce(sum(numbackends), 0)::integer FROM pg_stat_database;

-- name: rights
-- What the role lacks of that which the relay needs.
SELECT needed.relation, needed.privilege
  FROM unnest(CAST(%(relations)s AS text[]), CAST(%(privileges)s AS text[]))
    AS needed (relation, privilege)
 WHERE NOT has_table_privilege(needed.relation, needed.privilege)
UNION ALL
SELECT 'FUNCTION pg_control_system()', 'EXECUTE'
 WHERE NOT has_function_privilege('pg_control_system()', 'EXECUTE');
