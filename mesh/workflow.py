"""Workflows: jobs that run after others, stored together or not at all.

::

    chain(fetch.draft(url), parse.draft(), store.draft())
    group(*(resize.draft(n) for n in range(9))).then(publish.draft())

A **draft** is a call of a handler that is not yet a job. In a chain the result of each becomes
the first argument of the next; after a group it is the list of the results, in the order of the
group. ``Workflow`` draws any graph without a circle, with names.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, cast

import msgspec

from mesh.errors import ConfigError, raised
from mesh.held import After, Held, Outcome
from mesh.job import State, new_job_id

if TYPE_CHECKING:
    from mesh.app import Mesh
    from mesh.bound import Bound
    from mesh.job_handle import JobHandle

__all__ = ["Chain", "Draft", "Group", "Node", "Workflow", "WorkflowHandle", "chain", "group"]

_Feed = Literal["", "one", "all"]


@dataclass(frozen=True)
class Draft:
    """A call that is to become a job: ``handler.draft(...)``."""

    bound: Bound[Any, Any]
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    is_fed: bool = True

    def alone(self) -> Draft:
        """The same, for a place in a chain where the result before is not its argument."""
        return replace(self, is_fed=False)

    def then(self, *steps: Step) -> Chain:
        """A chain that begins with this."""
        return chain(self, *steps)


@dataclass(frozen=True)
class Chain:
    """Steps one after another."""

    steps: tuple[Step, ...]

    def then(self, *steps: Step) -> Chain:
        """A chain that goes on when all of this has succeeded."""
        return chain(self, *steps)

    async def enqueue(self, *, session: Any = None) -> WorkflowHandle:
        """Store all of its jobs, as ``Workflow.enqueue`` does."""
        flow = Workflow()
        return await flow._enqueue(session, flow._grow(self, [], ""), many=False)


@dataclass(frozen=True)
class Group:
    """Steps side by side."""

    steps: tuple[Step, ...]

    def then(self, *steps: Step) -> Chain:
        """A chain that goes on when all of this has succeeded."""
        return chain(self, *steps)

    async def enqueue(self, *, session: Any = None) -> WorkflowHandle:
        """Store all of its jobs, as ``Workflow.enqueue`` does."""
        flow = Workflow()
        return await flow._enqueue(session, flow._grow(self, [], ""), many=True)


Step = Draft | Chain | Group


def chain(*steps: Step) -> Chain:
    """Steps one after another, each with the result of the one before as its first argument.
    Raises ``ConfigError``."""
    return Chain(_checked("chain", steps))


def group(*steps: Step) -> Group:
    """Steps side by side; what comes after them gets the list of their results. Raises
    ``ConfigError``."""
    return Group(_checked("group", steps))


def _checked(what: str, steps: tuple[Any, ...]) -> tuple[Step, ...]:
    if not steps:
        raise ConfigError(f"{what}() needs at least one step, such as handler.draft(...)")
    for step in steps:
        if not isinstance(step, Draft | Chain | Group):
            raise ConfigError(f"{what}({step!r}): a step is handler.draft(...), a chain or a group")
    return steps


@dataclass(frozen=True, eq=False)
class Node:
    """A job of a workflow that is being drawn."""

    id: str
    name: str
    draft: Draft
    after: tuple[After, ...]


class Workflow:
    """A graph of jobs: add what runs first, then what runs after it.

    ::

        flow = Workflow()
        one = flow.add(fetch.draft(1), name="one")
        two = flow.add(fetch.draft(2), name="two")
        flow.add(compare.draft(), after=[one, two])
        await flow.enqueue()

    A handler finds the results of what it ran after in ``ctx.parents``, by these names.
    """

    def __init__(self) -> None:
        self.id = new_job_id()
        self._nodes: dict[str, Node] = {}
        self._numbers: dict[str, int] = {}
        """The last that was tried for a name: looking from 1 each time would take for ever."""

    def add(
        self,
        draft: Draft,
        *,
        name: str | None = None,
        after: Node | Iterable[Node] = (),
        on: Outcome = "success",
        feed: str | None = None,
    ) -> Node:
        """One more job. ``after`` what it runs, and ``on`` which end of those; ``feed`` names the
        argument that the result becomes (of several, the list of results). Raises
        ``ConfigError``."""
        parents = [after] if isinstance(after, Node) else list(after)
        for parent in parents:
            if self._nodes.get(parent.name) is not parent:
                raise ConfigError(f"'{parent.name}' is not of this workflow: add it first")
        if feed is not None and not parents:
            raise ConfigError(f"feed='{feed}': there is nothing that it runs after")
        several = feed is not None and not isinstance(after, Node)
        feeds = f"{feed}[]" if several else feed
        return self._add(draft, name, [After(p.id, on, p.name, feeds) for p in parents])

    def _add(self, draft: Draft, name: str | None, after: list[After]) -> Node:
        if not isinstance(draft, Draft):
            raise ConfigError(f"{draft!r} is no draft: give handler.draft(...)")
        draft.bound.check_draft()
        unique = name or self._free_name(draft.bound.name)
        if unique in self._nodes:
            raise ConfigError(f"two jobs of the workflow are named '{unique}'")
        node = Node(new_job_id(), unique, draft, tuple(after))
        self._nodes[unique] = node
        return node

    def _free_name(self, base: str) -> str:
        while True:
            number = self._numbers[base] = self._numbers.get(base, 0) + 1
            name = base if number == 1 else f"{base}-{number}"
            if name not in self._nodes:
                return name

    def _grow(self, step: Step, after: list[Node], feed: _Feed) -> list[Node]:
        """Add a step; returns its last nodes."""
        if isinstance(step, Draft):
            feeds = None
            if after and step.is_fed and feed:
                parameter = step.bound.first_parameter(step.kwargs)
                feeds = f"{parameter}[]" if parameter and feed == "all" else parameter
            return [self._add(step, None, [After(p.id, name=p.name, feeds=feeds) for p in after])]
        if isinstance(step, Group):
            return [end for each in step.steps for end in self._grow(each, after, feed)]
        for each in step.steps:
            after = self._grow(each, after, feed)
            feed = "all" if isinstance(each, Group) else "one"
        return after

    async def enqueue(self, *, session: Any = None) -> WorkflowHandle:
        """Store all of its jobs together, on the master; ``session`` as in ``options``. Raises
        as ``Bound.enqueue`` does."""
        inner = {after.job_id for node in self._nodes.values() for after in node.after}
        ends = [node for node in self._nodes.values() if node.id not in inner]
        return await self._enqueue(session, ends, many=len(ends) > 1)

    async def _enqueue(self, session: Any, ends: list[Node], *, many: bool) -> WorkflowHandle:
        if not self._nodes:
            raise ConfigError("the workflow has no jobs: add some")
        nodes = list(self._nodes.values())
        app = cast("Mesh", nodes[0].draft.bound.app)
        if any(node.draft.bound.app is not app for node in nodes):
            raise ConfigError("the jobs of a workflow must all be of one app")
        held = [self._held(node) for node in nodes]
        results = [node.draft.bound.result_codec for node in nodes]
        outcomes = await app.submit_held(held, session, results, together=True)
        jobs = {n.name: raised(outcome) for n, outcome in zip(nodes, outcomes, strict=True)}
        return WorkflowHandle(app, self.id, jobs, [jobs[node.name] for node in ends], many)

    def _held(self, node: Node) -> Held:
        fed = {after.feeds.removesuffix("[]") for after in node.after if after.feeds}
        draft = node.draft
        held = draft.bound.draft_held(draft.args, draft.kwargs, fed)
        job = msgspec.structs.replace(held.job, id=node.id, workflow=self.id)
        return replace(held, job=job, after=node.after)


class WorkflowHandle:
    """A workflow that was enqueued, or looked up."""

    def __init__(
        self,
        app: Mesh,
        workflow_id: str,
        jobs: Mapping[str, JobHandle[Any]],
        ends: Sequence[JobHandle[Any]] = (),
        many: bool = False,
    ) -> None:
        self._app = app
        self.id = workflow_id
        self.jobs = jobs
        """Its jobs by their names; of one that was looked up, by their ids."""
        self._ends = ends
        self._many = many

    def __repr__(self) -> str:
        return f"<WorkflowHandle {self.id} of {len(self.jobs)} jobs>"

    def __iter__(self) -> Iterator[JobHandle[Any]]:
        return iter(self.jobs.values())

    async def result(self, timeout: float | None = None) -> Any:
        """Wait for its last job and return the result; of a group, the list of results. Raises
        as ``JobHandle.result`` does, and ``ConfigError`` if the workflow was looked up: the
        history does not know which job was the last."""
        if not self._ends:
            raise ConfigError(
                f"workflow {self.id} was looked up: ask one of its jobs for the result"
            )
        results = await asyncio.gather(*(job.result(timeout) for job in self._ends))
        return results if self._many else results[0]

    async def states(self) -> dict[State, int]:
        """How many of its jobs are in each state, those of its retries too."""
        return await self._app.count(workflow=self.id)

    async def cancel(self, reason: str = "") -> int:
        """Ask for all of its jobs to be cancelled that have not ended. Returns how many."""
        return await self._app.cancel(reason, workflow=self.id)

    async def retry(self) -> list[JobHandle[Any]]:
        """Do again what did not succeed, in the same order: each job runs after what its parents
        become. Returns the new jobs."""
        return await self._app.retry(
            workflow=self.id, state=["failed", "cancelled", "expired", "skipped"]
        )
