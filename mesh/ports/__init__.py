"""The two ports: what an agent and a master promise.

An **agent** is a transport that holds jobs in flight. A **master** is the durable history.
Implementations register under the entry points ``mesh.agents`` and ``mesh.masters`` by URL
scheme (see ``mesh.plugins``). The docstrings here are the contract; the suites in
``mesh.testing.conformance`` hold every implementation to it.

Rules for both ports:

- All calls are coroutines of one event loop; an instance belongs to the loop that opened it.
- ``open`` and ``close`` may be called any number of times, in any order.
- Durations are seconds, moments are seconds since the epoch (UTC), sizes are bytes.
- Whatever goes wrong with a server is raised as ``AgentError`` or ``MasterError``, naming the
  URL with its password hidden; drivers' exceptions do not leak.
"""

from mesh.filter import JobFilter as JobFilter
from mesh.ports.agent import FAIR_TURN as FAIR_TURN
from mesh.ports.agent import Agent as Agent
from mesh.ports.agent import AgentCapabilities as AgentCapabilities
from mesh.ports.agent import AgentSettings as AgentSettings
from mesh.ports.agent import Consumer as Consumer
from mesh.ports.agent import Delivery as Delivery
from mesh.ports.agent import LaneDepth as LaneDepth
from mesh.ports.agent import Ledger as Ledger
from mesh.ports.agent import LedgerBatch as LedgerBatch
from mesh.ports.agent import Settlement as Settlement
from mesh.ports.common import EVERY_JOB as EVERY_JOB
from mesh.ports.common import HELD as HELD
from mesh.ports.common import MANY_JOBS as MANY_JOBS
from mesh.ports.common import Board as Board
from mesh.ports.common import Check as Check
from mesh.ports.common import Known as Known
from mesh.ports.common import Lookup as Lookup
from mesh.ports.common import Signals as Signals
from mesh.ports.common import changed_topics as changed_topics
from mesh.ports.common import job_topics as job_topics
from mesh.ports.credentials import ApiKey as ApiKey
from mesh.ports.credentials import AuditEntry as AuditEntry
from mesh.ports.credentials import Credentials as Credentials
from mesh.ports.credentials import Session as Session
from mesh.ports.credentials import User as User
from mesh.ports.infos import RUN_TIMES as RUN_TIMES
from mesh.ports.infos import AgentInfo as AgentInfo
from mesh.ports.infos import AttemptInfo as AttemptInfo
from mesh.ports.infos import Backlog as Backlog
from mesh.ports.infos import Bucket as Bucket
from mesh.ports.infos import EventInfo as EventInfo
from mesh.ports.infos import FailureGroup as FailureGroup
from mesh.ports.infos import HandlerInfo as HandlerInfo
from mesh.ports.infos import JobInfo as JobInfo
from mesh.ports.infos import LimitInfo as LimitInfo
from mesh.ports.infos import Links as Links
from mesh.ports.infos import Wait as Wait
from mesh.ports.master import Claimed as Claimed
from mesh.ports.master import Lease as Lease
from mesh.ports.master import Master as Master
from mesh.ports.master import MasterCapabilities as MasterCapabilities
from mesh.ports.master import MasterSettings as MasterSettings
from mesh.ports.master import Outlived as Outlived
from mesh.ports.master import Suspect as Suspect
from mesh.ports.master import Suspects as Suspects
from mesh.ports.master import Unblocked as Unblocked

__all__ = [
    "Agent",
    "AgentCapabilities",
    "AgentInfo",
    "AgentSettings",
    "ApiKey",
    "AttemptInfo",
    "AuditEntry",
    "Backlog",
    "Board",
    "Bucket",
    "Check",
    "Claimed",
    "Consumer",
    "Credentials",
    "Delivery",
    "EVERY_JOB",
    "EventInfo",
    "FAIR_TURN",
    "FailureGroup",
    "HELD",
    "HandlerInfo",
    "JobFilter",
    "JobInfo",
    "Known",
    "LaneDepth",
    "Lease",
    "Ledger",
    "LedgerBatch",
    "Links",
    "Lookup",
    "MANY_JOBS",
    "Master",
    "MasterCapabilities",
    "MasterSettings",
    "Outlived",
    "RUN_TIMES",
    "Session",
    "Settlement",
    "Signals",
    "Unblocked",
    "User",
    "LimitInfo",
    "Wait",
]
