"""What is done around every job: ``Mesh(..., middleware=[Trace(), Logs()])``."""

from mesh.middleware.base import AttemptEnded as AttemptEnded
from mesh.middleware.base import Middleware as Middleware
from mesh.middleware.base import NewJob as NewJob
from mesh.middleware.hooks import Hooks as Hooks
from mesh.middleware.logs import JsonFormatter as JsonFormatter
from mesh.middleware.logs import Logs as Logs
from mesh.middleware.otel import OpenTelemetry as OpenTelemetry
from mesh.middleware.report import Report as Report
from mesh.middleware.trace import Trace as Trace
from mesh.tracing import current_trace as current_trace
from mesh.tracing import within_trace as within_trace

__all__ = [
    "AttemptEnded",
    "Hooks",
    "JsonFormatter",
    "Logs",
    "Middleware",
    "NewJob",
    "OpenTelemetry",
    "Report",
    "Trace",
    "current_trace",
    "within_trace",
]
