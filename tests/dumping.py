"""PostgreSQL's own programs: what is dumped from one database, and read into another."""

from __future__ import annotations

import re
import subprocess

import sqlalchemy as sa

from outbox import migration
from tools.servers.postgres import find_binaries


def dump(url: str, *options: str) -> str:
    """Return what pg_dump writes, without the version table and the comments."""
    dsn = sa.make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    program = str(find_binaries() / "pg_dump")
    options = (f"--exclude-table={migration.VERSION_TABLE}", "--no-comments", *options)
    done = subprocess.run([program, *options, dsn], check=True, capture_output=True, text=True)
    # The random key of psql's \restrict is new in each dump.
    return re.sub(r"(?m)^(--.*|\\(un)?restrict .*|)\n", "", done.stdout)


def psql(url: str, script: str) -> None:
    dsn = sa.make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    program = str(find_binaries() / "psql")
    options = ["--quiet", "--set=ON_ERROR_STOP=1", dsn]
    subprocess.run([program, *options], check=True, input=script, capture_output=True, text=True)
