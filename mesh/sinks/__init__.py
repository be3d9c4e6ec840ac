"""Where events go, beside those who ask for them.

::

    app = Mesh(
        "postgresql://host/shop",
        sinks=[
            LogEvents(),
            Collector("https://collector.example/events"),
            Webhook("ops", "https://ops.example/hooks", secret=os.environ["OPS_SECRET"],
                    events=["failed"]),
        ],
    )

    @app.on_event("failed", "lost", name="reports.*")
    async def alarm(told: JobEvent) -> None: ...

They are served by the process that records the ledger (``mesh master``, ``mesh up``): an event is
handed to each sink when it is in the master, and before its record is taken off the ledger. So if
that process dies events come again, with the same ``id`` (``JobEvent.id``); none is passed over
that a sink has not been given. What a sink promises from there on, it says. (The ends of jobs
that were on no agent are in no ledger; ``mesh_master.telling`` says how they are found.)
"""

from mesh.sinks.base import Sink as Sink
from mesh.sinks.base import Wanted as Wanted
from mesh.sinks.callback import Callback as Callback
from mesh.sinks.collector import Collector as Collector
from mesh.sinks.log import LogEvents as LogEvents
from mesh.sinks.webhook import Webhook as Webhook

__all__ = ["Callback", "Collector", "LogEvents", "Sink", "Wanted", "Webhook"]
