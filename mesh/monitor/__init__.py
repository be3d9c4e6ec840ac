"""What a process can tell of itself: whether it is well, and what it has done. For probes and
Prometheus, by an HTTP port of its own, a file, or the HTTP API.
"""

from mesh.monitor.door import FILE_EVERY as FILE_EVERY
from mesh.monitor.door import Door as Door
from mesh.monitor.door import HealthFile as HealthFile
from mesh.monitor.door import doors as doors
from mesh.monitor.families import Families as Families
from mesh.monitor.families import exposition as exposition
from mesh.monitor.monitor import Health as Health
from mesh.monitor.monitor import Monitor as Monitor
from mesh.monitor.monitor import Monitored as Monitored
from mesh.monitor.tally import Tally as Tally

__all__ = [
    "FILE_EVERY",
    "Door",
    "Families",
    "Health",
    "HealthFile",
    "Monitor",
    "Monitored",
    "Tally",
    "doors",
    "exposition",
]
