"""The schema's history: one module in ``versions`` for each step, run by ``mesh.sql.migrate``.

``upgrade(op, prefix, schema)`` gets Alembic's operations and the names to use. A revision that
was released is never edited; its table definitions are its own and don't follow the code.
"""
