"""One module for each system: its handlers, and its producer.

They run in the system's own environment, so they import the standard library, that system, and
``benchmarks.board`` alone. Each says in its docstring which settings it uses and who advises them.

The driver tells them by environment variables: ``BENCH_URL`` (the server), ``BENCH_BOARD`` (the
board's file), ``BENCH_HANDLER`` (``quick``, ``thread``, ``slow``…), ``BENCH_CONCURRENCY``.
"""
