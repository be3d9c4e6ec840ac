"""The schedule language: when something happens again and again.

``parse`` understands cron (five fields, or six with seconds first), macros such as ``@daily``,
plain English such as ``every 30 minutes between 09:00 and 18:00 on [mon, fri]``, and intervals
(a ``timedelta``). ``every(30).minutes`` and its like build the same in Python. Pure: no I/O, and
no clock of its own. ``docs/schedules.md`` is the language on one page.
"""

from mesh.schedule.fluent import Fluent as Fluent
from mesh.schedule.fluent import at as at
from mesh.schedule.fluent import daily as daily
from mesh.schedule.fluent import every as every
from mesh.schedule.fluent import hourly as hourly
from mesh.schedule.fluent import minutely as minutely
from mesh.schedule.fluent import monthly as monthly
from mesh.schedule.fluent import on as on
from mesh.schedule.fluent import secondly as secondly
from mesh.schedule.fluent import weekly as weekly
from mesh.schedule.fluent import yearly as yearly
from mesh.schedule.schedule import Schedule as Schedule
from mesh.schedule.schedule import parse as parse

__all__ = [
    "Fluent",
    "Schedule",
    "at",
    "daily",
    "every",
    "hourly",
    "minutely",
    "monthly",
    "on",
    "parse",
    "secondly",
    "weekly",
    "yearly",
]
