"""jobmesh: a distributed task mesh for Python.

The speed of a message broker and the memory of a database, for background jobs.
"""

from mesh.app import Mesh as Mesh
from mesh.config import AgentConfig as AgentConfig
from mesh.config import Config as Config
from mesh.context import Context as Context
from mesh.context import ParentJob as ParentJob
from mesh.depends import Depends as Depends
from mesh.depends import Injected as Injected
from mesh.errors import AgentError as AgentError
from mesh.errors import AgentUnavailable as AgentUnavailable
from mesh.errors import CannotDecrypt as CannotDecrypt
from mesh.errors import ClusterArchived as ClusterArchived
from mesh.errors import ConfigError as ConfigError
from mesh.errors import EventsWait as EventsWait
from mesh.errors import EventTooLarge as EventTooLarge
from mesh.errors import InvalidArguments as InvalidArguments
from mesh.errors import InvalidJob as InvalidJob
from mesh.errors import InvalidResult as InvalidResult
from mesh.errors import InvalidSchedule as InvalidSchedule
from mesh.errors import JobCancelled as JobCancelled
from mesh.errors import JobFailed as JobFailed
from mesh.errors import JobNotEnded as JobNotEnded
from mesh.errors import JobNotFound as JobNotFound
from mesh.errors import JobNotSucceeded as JobNotSucceeded
from mesh.errors import JobRetried as JobRetried
from mesh.errors import KeyExists as KeyExists
from mesh.errors import MasterError as MasterError
from mesh.errors import MasterUnavailable as MasterUnavailable
from mesh.errors import MeshError as MeshError
from mesh.errors import PartlyStored as PartlyStored
from mesh.errors import PayloadTooLarge as PayloadTooLarge
from mesh.errors import ProcessDied as ProcessDied
from mesh.errors import PublishOutcomeUnknown as PublishOutcomeUnknown
from mesh.errors import ResultTimeout as ResultTimeout
from mesh.errors import ScheduleExists as ScheduleExists
from mesh.errors import ScheduleNotFound as ScheduleNotFound
from mesh.errors import UnknownHandler as UnknownHandler
from mesh.feed import JobEvent as JobEvent
from mesh.handler import Handler as Handler
from mesh.job import Priority as Priority
from mesh.job import State as State
from mesh.job_handle import JobHandle as JobHandle
from mesh.middleware import AttemptEnded as AttemptEnded
from mesh.middleware import Middleware as Middleware
from mesh.middleware import NewJob as NewJob
from mesh.outcome import Cancel as Cancel
from mesh.outcome import Fail as Fail
from mesh.outcome import Failure as Failure
from mesh.outcome import Snooze as Snooze
from mesh.ports import EventInfo as EventInfo
from mesh.ports import JobInfo as JobInfo
from mesh.request import Job as Job
from mesh.retry import Retry as Retry
from mesh.sign_in import Identity as Identity
from mesh.sign_in import Scope as Scope
from mesh.workflow import Workflow as Workflow
from mesh.workflow import WorkflowHandle as WorkflowHandle
from mesh.workflow import chain as chain
from mesh.workflow import group as group

__all__ = [
    "AgentConfig",
    "AgentError",
    "AgentUnavailable",
    "AttemptEnded",
    "Cancel",
    "CannotDecrypt",
    "ClusterArchived",
    "Config",
    "ConfigError",
    "Context",
    "Depends",
    "EventInfo",
    "EventTooLarge",
    "EventsWait",
    "Fail",
    "Failure",
    "Handler",
    "Identity",
    "Injected",
    "InvalidArguments",
    "InvalidJob",
    "InvalidResult",
    "InvalidSchedule",
    "Job",
    "JobCancelled",
    "JobEvent",
    "JobFailed",
    "JobHandle",
    "JobInfo",
    "JobNotEnded",
    "JobNotFound",
    "JobNotSucceeded",
    "JobRetried",
    "KeyExists",
    "MasterError",
    "MasterUnavailable",
    "Mesh",
    "MeshError",
    "Middleware",
    "NewJob",
    "ParentJob",
    "PartlyStored",
    "PayloadTooLarge",
    "Priority",
    "ProcessDied",
    "PublishOutcomeUnknown",
    "ResultTimeout",
    "Retry",
    "ScheduleExists",
    "ScheduleNotFound",
    "Scope",
    "Snooze",
    "State",
    "UnknownHandler",
    "Workflow",
    "WorkflowHandle",
    "chain",
    "group",
]

__version__ = "0.1.0"
