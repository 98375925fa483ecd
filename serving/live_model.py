"""Keeps a worker of what is live: starts it, restarts it after a crash, changes it after a promotion or a refresh."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from functools import partial
from threading import Thread
from typing import Any, TypeVar

from catalog.schema import DataError
from registry.live_index import LiveIndex
from serving.metrics import Metrics
from serving.params import ServiceParams
from serving.worker_client import Launch, NoWorkerError, Worker

LONGEST_PAUSE = 60.0  # seconds between two attempts to start a worker
STABLE = 60.0  # seconds; a worker that ended earlier is restarted with a pause
T = TypeVar("T")
logger = logging.getLogger("vitrine")


class LiveModel:
    """The model and the index that have an alias, or one version, served by a worker.

    A change is made when its worker is ready; the one before it then answers what it has and stops. If the new one
    does not start, the one before it stays.

    Args:
        alias: For messages and metrics, such as "champion".
        live: What is live now; None if nothing is, for a model that is not required.
        find: Reads what is live; None if nothing is.
        prepare: Downloads it, and says how to start its worker.
        forget_others: Removes the downloads of everything else.
        params: Of the service.
        metrics: Counts what happens to workers.
        required: Whether the model stays when nothing is live any more; else it stops.
    """

    def __init__(
        self,
        alias: str,
        live: LiveIndex | None,
        find: Callable[[], LiveIndex | None],
        prepare: Callable[[LiveIndex], Launch],
        forget_others: Callable[[LiveIndex], None],
        params: ServiceParams,
        metrics: Metrics,
        required: bool = True,
    ) -> None:
        self.alias, self.params, self.metrics = alias, params, metrics
        self._find, self._prepare, self._forget_others = find, prepare, forget_others
        self._target, self._required = live, required
        self._serving: LiveIndex | None = None  # of `_worker`; stays after its end
        self._worker: Worker | None = None
        self._ready_since = 0.0
        self._failures, self._next_attempt = 0, 0.0
        self._wake = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._workers: set[Worker] = set()  # that run, also those that finish what they have

    @property
    def worker(self) -> Worker:
        """The worker that answers.

        Raises:
            NoWorkerError: where there is none now.
        """
        if self._worker is None or self._worker.closed.is_set():
            raise NoWorkerError
        return self._worker

    @property
    def is_ready(self) -> bool:
        """Whether there is a worker that answers."""
        return self._worker is not None and not self._worker.closed.is_set()

    def start(self) -> None:
        """Begin to watch MLflow and to keep a worker."""
        for work in (self._watch(), self._keep()):
            self._add_task(work)

    async def stop(self) -> None:
        """Stop watching; stop the workers."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(worker.stop() for worker in self._workers))

    async def _watch(self) -> None:
        """Read what is live every `poll_seconds`. Where MLflow cannot be reached, what is served stays."""
        was_reachable = True
        while True:
            await asyncio.sleep(self.params.poll_seconds)
            try:
                live, is_reachable = await run_in_thread(self._find), True
            except Exception as error:
                self.metrics.registry_errors.inc()
                if was_reachable:
                    logger.error("%s: what is live cannot be read; the model stays: %s", self.alias, error)
                live, is_reachable = None, False
            is_gone = live is None and is_reachable
            if is_gone and was_reachable and self._required:
                logger.warning("%s: no version has the alias any more; the model stays", self.alias)
            was_reachable = is_reachable and not (is_gone and self._required)
            if live != self._target and (live or (is_gone and not self._required)):
                self._target, self._failures, self._next_attempt = live, 0, 0.0
                self._wake.set()

    async def _keep(self) -> None:
        """Start a worker whenever the one that is live does not run."""
        loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            if self._target is None:
                self._retire()
                pause = None
            elif self._serving == self._target and self.is_ready:
                pause = None
            elif (remaining := self._next_attempt - loop.time()) > 0:
                pause = remaining
            else:
                target = self._target
                await self._try_to_start(target)
                if not self.is_ready and self._serving and self._serving != target:
                    await self._try_to_start(self._serving)  # the one before has crashed meanwhile
                continue
            try:
                async with asyncio.timeout(pause):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _try_to_start(self, live: LiveIndex) -> None:
        """Start a worker and let it answer; after a failure, set the time of the next attempt."""
        try:
            launch = await run_in_thread(self._prepare, live)
            worker = await Worker.start(live.version, launch)
        except Exception as error:
            self.metrics.workers.labels(self.alias, "failed").inc()
            kept = f"; version {self._serving.version} goes on" if self._serving and self.is_ready else ""
            pause = self._plan_next_attempt()
            logger.error("%s: %s%s; trying again in %.0f s", self.alias, error, kept, pause)
            if not isinstance(error, DataError | OSError):
                logger.exception("unexpected")
            return
        before = self._worker
        self._switch(live, worker)
        if before:
            await before.drain(self.params.timeout_seconds)  # until its end, it may read its files
        if live == self._target:
            await run_in_thread(self._forget_others, live)

    def _switch(self, live: LiveIndex, worker: Worker) -> None:
        self._workers.add(worker)
        self._worker, self._serving = worker, live
        self._ready_since = asyncio.get_running_loop().time()
        self.metrics.workers.labels(self.alias, "ready").inc()
        self.metrics.set_model(self.alias, worker.version, worker.description)
        logger.info("%s: version %s answers, index %s", self.alias, live.version, worker.index)
        self._add_task(self._wait_for_end(worker))

    def _retire(self) -> None:
        """Stop the worker, as nothing is live any more; it answers what it has."""
        before, self._worker, self._serving = self._worker, None, None
        if before:
            self.metrics.forget_model(self.alias)
            logger.info("%s: no version has the alias any more; version %s stops", self.alias, before.version)
            if not before.closed.is_set():
                self._add_task(before.drain(self.params.timeout_seconds))

    async def _wait_for_end(self, worker: Worker) -> None:
        """Notice that the worker ended by itself."""
        await worker.closed.wait()
        self._workers.discard(worker)
        if worker is not self._worker:
            return
        self.metrics.workers.labels(self.alias, "ended").inc()
        pause = 0.0
        if asyncio.get_running_loop().time() - self._ready_since < STABLE:
            pause = self._plan_next_attempt()
        else:
            self._failures = 0
        logger.error(
            "%s: the worker of version %s ended by itself; restarting in %.0f s",
            self.alias,
            worker.version,
            pause,
        )
        self._wake.set()

    def _plan_next_attempt(self) -> float:
        """The seconds until the next attempt, which double with each failure; the first is made soon."""
        pause = min(LONGEST_PAUSE, 0.5 * 2**self._failures)
        self._failures += 1
        self._next_attempt = asyncio.get_running_loop().time() + pause
        return pause

    def _add_task(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def run_in_thread(function: Callable[..., T], *arguments: object) -> T:
    """Run a function that may block for minutes. Unlike in `asyncio.to_thread`, the process can end before it does."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(outcome: Callable[[], None]) -> None:
        if not future.done():
            outcome()

    def work() -> None:
        try:
            outcome = partial(future.set_result, function(*arguments))
        except Exception as error:
            outcome = partial(future.set_exception, error)
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, outcome)

    Thread(target=work, daemon=True).start()
    return await future
