"""What is done around every job: ``Mesh(..., middleware=[Trace(), Logs()])``."""

from mesh.middleware.base import AttemptEnded as AttemptEnded
from mesh.middleware.base import Middleware as Middleware
from mesh.middleware.base import NewJob as NewJob
from mesh.middleware.hooks import Hooks as Hooks

__all__ = ["AttemptEnded", "Hooks", "Middleware", "NewJob"]
