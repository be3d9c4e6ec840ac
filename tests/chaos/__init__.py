"""Chaos: a cluster of real processes under load, a nemesis that breaks it, a checker that asks
afterwards whether every promise was kept.

``python -m tests.chaos --deployment nats --seed 7 --minutes 30``, or ``make chaos``.

- ``application``: the app under test; its handlers write down that they ran (``journal``).
- ``producer``: a process that enqueues in every way there is, and writes down what it was told.
- ``cluster``: servers and processes of a deployment, each behind proxies of its own (``proxy``).
- ``plan``: what breaks, and when: drawn from the seed alone. ``nemesis`` does it.
- ``evidence`` gathers what journals, master and agents say; ``checker``, a pure function, judges.

A seed fixes the plan, and what producers enqueue; the operating system's timing it cannot fix.
"""
