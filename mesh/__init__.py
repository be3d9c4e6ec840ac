"""jobmesh: a distributed task mesh for Python."""

__version__ = "0.1.0"
