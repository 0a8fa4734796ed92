"""The audit trail: what a chain of hashes, a tree of hashes and a signature make of a table.

    record  ─▶  chain  ─▶  seal  ─▶  proof
    one event   names the one before  a signed head  one event, for others

`record` and `merkle` are arithmetic, `chain` decides what a broken chain means, `seal` and `proof`
are what is signed and handed out, `signing` is the one module that needs the driver `cryptography`
(the extra `audit`), and `store` and `export` are the two places where records are read from.
"""
