"""SQL databases, for the parts that keep rows: the only place that knows drivers and dialects."""

from mesh.sql.database import Database as Database
from mesh.sql.database import DatabaseErrors as DatabaseErrors
from mesh.sql.types import Moment as Moment

__all__ = ["Database", "DatabaseErrors", "Moment"]
