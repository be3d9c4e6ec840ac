"""Benchmarks: jobmesh and its peers, doing the same work beside each other. See ``__main__``."""
