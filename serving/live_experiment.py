"""The experiment in the service: asks the workers that a search needs, and shows what the session takes part in.

Whatever the challenger does, the customer gets an answer as from the champion alone: where it fails or is slow, the
champion's results are shown, and the search is no part of the experiment.
"""

import asyncio
import json
import logging
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, NamedTuple

from catalog.schema import DataError
from serving import messages
from serving.experiment import AB, CHALLENGER_ARM, CHAMPION_ARM, INTERLEAVED_ARM, SHADOW_ARM, Experiment
from serving.live_model import LiveModel
from serving.log_rows import KEY_VARIABLE
from serving.metrics import Metrics
from serving.params import ExperimentParams, LogParams
from serving.worker_client import Answer, NoWorkerError, RefusalError, Worker

logger = logging.getLogger("vitrine")
FAILURES = (NoWorkerError, RefusalError, TimeoutError)
PENDING = 16  # searches that the challenger may be answering; beyond, it gets none


class Trial(NamedTuple):
    """What a search is in an experiment.

    Attributes:
        experiment: Of the session.
        arm: What is shown.
        placed_by: The version that placed each result; None for all by the version that answers.
    """

    experiment: Experiment
    arm: str
    placed_by: list[str] | None = None


class Ranking(NamedTuple):
    """What is answered to a search.

    Attributes:
        worker: Of the version and index that the answer names.
        answer: The results.
        trial: Its part in an experiment; None for none.
    """

    worker: Worker
    answer: Answer
    trial: Trial | None = None


class Shadow(NamedTuple):
    """What the challenger answers while nobody waits for it.

    Attributes:
        answer: None where it failed.
        milliseconds: Until the answer.
    """

    answer: Answer | None
    milliseconds: float | None


@dataclass(frozen=True)
class Request:
    """A search for a worker.

    Attributes:
        query: Of the customer.
        params: Of the model's search.
        deadline: Time of the loop's clock.
    """

    query: messages.Search
    params: dict[str, Any]
    deadline: float

    async def ask(self, worker: Worker) -> Answer:
        """The worker's answer; errors as of `Worker.search`."""
        return await worker.search(self.query.text, self.query.image, self.params, self.deadline)

    @property
    def key(self) -> str:
        """Identifies the search, whatever the length of its list: who searches again sees the same list."""
        picture = blake2b(self.query.image or b"").hexdigest()
        return json.dumps([self.query.text, picture, {**self.params, "k": None}], sort_keys=True)


class LiveExperiment:
    """Champion and challenger on the searches of sessions.

    Args:
        params: Section `experiment`; its kind is not "none".
        champion, challenger: The models. While there is no challenger, or it has the index of another catalogue, there
            is no experiment.
        metrics: Counts searches by arm, and failures of the challenger.
    """

    def __init__(
        self, params: ExperimentParams, champion: LiveModel, challenger: LiveModel, metrics: Metrics
    ) -> None:
        self.params, self.champion, self.challenger, self.metrics = params, champion, challenger, metrics
        self._tasks: set[asyncio.Task[Any]] = set()  # that the challenger answers
        self._catalogues = ("", "")  # different ones, of which a warning was logged

    def start(self) -> None:
        """Begin to keep a worker of the challenger."""
        self.challenger.start()

    async def stop(self) -> None:
        """Stop it; searches that only the challenger still answers end."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.challenger.stop()

    async def rank(self, request: Request) -> Ranking:
        """Answer a search; errors as of the champion's `Worker.search`."""
        champion = self.champion.worker
        pair = self._find_pair(champion)
        arm = pair and pair[0].arm(request.query.session)
        if pair is None or arm is None:
            return Ranking(champion, await request.ask(champion))
        experiment, challenger = pair
        if arm in (CHAMPION_ARM, SHADOW_ARM):
            ranking = Ranking(champion, await request.ask(champion), Trial(experiment, arm))
        else:
            ranking = await self._ask_both(request, champion, challenger, experiment)
        if ranking.trial:
            self.metrics.experiment_searches.labels(ranking.trial.arm).inc()
        return ranking

    async def ask_shadow(self, request: Request) -> Shadow:
        """The challenger's answer to a search that the champion has answered."""
        try:
            worker, clock = self.challenger.worker, asyncio.get_running_loop().time
            start = clock()
            answer = await self._begin(request, worker)
        except FAILURES as failure:
            self.metrics.challenger_failures.labels(_name_reason(failure)).inc()
            return Shadow(None, None)
        return Shadow(answer, 1000 * (clock() - start))

    def _find_pair(self, champion: Worker) -> tuple[Experiment, Worker] | None:
        """The experiment of the versions that answer now, and the challenger; None where it cannot answer."""
        if not self.challenger.is_ready:
            return None
        challenger = self.challenger.worker
        if challenger.version == champion.version:  # it has just been promoted
            return None
        if challenger.index != champion.index:
            self._warn_of_catalogues(champion, challenger)
            return None
        if len(self._tasks) >= PENDING:
            self.metrics.challenger_failures.labels("busy").inc()
            return None
        return Experiment(self.params, champion.version, challenger.version), challenger

    def _warn_of_catalogues(self, champion: Worker, challenger: Worker) -> None:
        """Customers would compare catalogues, not models, and would see products that are gone."""
        self.metrics.challenger_failures.labels("catalogue").inc()
        if self._catalogues != (champion.index, challenger.index):
            self._catalogues = (champion.index, challenger.index)
            logger.warning(
                "experiment: it waits: version %s and version %s have indexes of different data; set "
                "refresh.challenger to true, and run python -m serving refresh",
                champion.version,
                challenger.version,
            )

    async def _ask_both(
        self, request: Request, champion: Worker, challenger: Worker, experiment: Experiment
    ) -> Ranking:
        """Both answer at the same time; the challenger may take `wait_ms` longer than the champion."""
        second = self._begin(request, challenger)
        first = asyncio.ensure_future(request.ask(champion))
        if experiment.kind == AB:
            await asyncio.wait({first, second}, return_when=asyncio.FIRST_COMPLETED)
            if second.done() and not second.exception():
                first.add_done_callback(_ignore_error)
                return Ranking(challenger, second.result(), Trial(experiment, CHALLENGER_ARM))
        answer = await first
        await asyncio.wait({second}, timeout=self.params.wait_ms / 1000)
        if not second.done() or (failure := second.exception()):
            reason = _name_reason(failure) if second.done() else "slow"
            self.metrics.challenger_failures.labels(reason).inc()
            return Ranking(champion, answer)
        if experiment.kind == AB:
            return Ranking(challenger, second.result(), Trial(experiment, CHALLENGER_ARM))
        return _merge(request, experiment, champion, answer, second.result())

    def _begin(self, request: Request, worker: Worker) -> asyncio.Task[Answer]:
        """Ask the challenger, whether or not somebody waits until its deadline: there, a worker that hangs is ended."""
        task = asyncio.create_task(request.ask(worker))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(_ignore_error)
        return task


def check_experiment(params: ExperimentParams, log: LogParams, key: str | None, served: str) -> None:
    """Refuse an experiment that nobody could read afterwards.

    Args:
        params: Section `experiment`.
        log: Section `log`.
        key: Of the log's hashes.
        served: What the service serves, such as "champion".

    Raises:
        DataError: there is no log or no key, or the champion is not served.
    """
    if params.kind == "none":
        return
    if log.folder is None:
        raise DataError(
            f"experiment.kind is {params.kind}, but log.folder is null: an experiment is read from the log"
        )
    if not key:
        raise DataError(
            f"experiment.kind is {params.kind}: set the environment variable {KEY_VARIABLE} to a secret; without it, "
            "the log cannot follow a session from one process of the service to the next"
        )
    if served != "champion":
        raise DataError(
            f"experiment.kind is {params.kind}, but {served} is served: start without --alias and --version, or set "
            "it to none"
        )


def _merge(
    request: Request, experiment: Experiment, worker: Worker, champion: Answer, challenger: Answer
) -> Ranking:
    session, collapse = request.query.session or "", bool(request.params.get("collapse"))
    shown = experiment.merge(
        champion.parse(), challenger.parse(), request.params["k"], session, request.key, collapse
    )
    if shown.arm != INTERLEAVED_ARM:
        return Ranking(worker, champion, Trial(experiment, shown.arm))
    results = json.dumps(shown.products, ensure_ascii=False).encode()
    answer = Answer(results, len(shown.products), champion.unknown_tokens)
    return Ranking(worker, answer, Trial(experiment, shown.arm, shown.placed_by))


def _name_reason(failure: BaseException | None) -> str:
    """The label of a failure for metrics."""
    return "slow" if isinstance(failure, TimeoutError) else "failed"


def _ignore_error(task: asyncio.Future[Any]) -> None:
    """Read the error of a search whose answer nobody needs: asyncio would report it."""
    if not task.cancelled():
        task.exception()
