"""Lists the fixture plugins; each sets the marker of the server that its fixtures need."""

from __future__ import annotations

pytest_plugins = ["tests.fix_sqlite", "tests.fix_postgres", "tests.fix_mariadb", "tests.fix_kafka"]
