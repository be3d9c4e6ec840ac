"""The schedule language: when something happens again and again.

``parse`` understands cron (five fields, or six with seconds first), macros such as ``@daily``,
plain English such as ``every 30 minutes between 09:00 and 18:00 on [mon, fri]``, and intervals
(a ``timedelta``). ``every(30).minutes`` and its like build the same in Python. Pure: no I/O, and
no clock of its own. ``docs/schedules.md`` is the language on one page.
"""

from mesh.schedule.schedule import Schedule as Schedule
from mesh.schedule.schedule import parse as parse

__all__ = ["Schedule", "parse"]
