"""The structure of events as JSON Schema: what is written down, and what a change of it breaks.

`document` writes the schema of a type; `shape` says what a schema admits, `inclusion` whether
everything that one admits another admits too, and `compatibility` what that means for those who
read and write events. `stored` finds what was written down before. All but the last are pure.
"""
