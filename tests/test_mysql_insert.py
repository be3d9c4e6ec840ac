"""INSERT … ON DUPLICATE KEY UPDATE, made of what ON CONFLICT says: each assignment there sees what
those before it have set."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table, case, or_
from sqlalchemy.dialects import mysql

from mesh.sql.dialects.mysql_insert import MySQLInsert

THINGS = Table(
    "things",
    MetaData(),
    Column("id", Integer, primary_key=True),
    Column("version", Integer),
    Column("state", String(9)),
    Column("holder", String(9)),
)


def update_part(statement: Any) -> str:
    compiled = str(statement.compile(dialect=mysql.dialect()))
    return compiled.partition("ON DUPLICATE KEY UPDATE ")[2]


def test_a_column_is_set_after_those_that_are_made_of_it() -> None:
    insert, things = MySQLInsert(THINGS), THINGS.c
    wins = insert.excluded.version > things.version
    said = update_part(
        insert.on_conflict_do_update(
            set_={
                "version": case((wins, insert.excluded.version), else_=things.version),
                "state": case((wins, insert.excluded.state), else_=things.state),
            }
        )
    )
    assert said.index("state = ") < said.index("version = ")


def test_a_condition_is_met_by_the_row_as_it_was() -> None:
    insert, things = MySQLInsert(THINGS), THINGS.c
    said = update_part(
        insert.on_conflict_do_update(
            set_={"version": insert.excluded.version, "holder": insert.excluded.holder},
            where=things.version < insert.excluded.version,
        )
    )
    assert said.index("holder = ") < said.index("version = ")
    assert "@" not in said


def test_a_condition_on_all_that_is_set_is_looked_at_once() -> None:
    insert, things = MySQLInsert(THINGS), THINGS.c
    said = update_part(
        insert.on_conflict_do_update(
            set_={"version": 1, "holder": "me"},
            where=or_(things.version < 1, things.holder.is_(None)),
        )
    )
    assert said.count("@mesh_meets :=") == 1
    assert said.index("@mesh_meets :=") < said.rindex("@mesh_meets")


def test_columns_made_of_each_other_are_refused() -> None:
    insert, things = MySQLInsert(THINGS), THINGS.c
    with pytest.raises(NotImplementedError):
        insert.on_conflict_do_update(set_={"state": things.holder, "holder": things.state})


def test_words_are_quoted_in_the_text() -> None:
    insert, things = MySQLInsert(THINGS), THINGS.c
    said = update_part(
        insert.on_conflict_do_update(
            set_={"state": insert.excluded.state}, where=things.holder == r"it's \ me"
        )
    )
    assert r"'it''s \\ me'" in said
    assert "%s" not in said
