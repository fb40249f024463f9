"""torchrun with the exit code of the rank that ended first, for schedulers that act on it.

torchrun itself ends with 1 whatever happened to its workers, which hides both a mistake of the user
(2) and "start me again" (75). Signals that ask a run to stop are passed on to the workers, which
save and leave; torchrun's own default would let SIGUSR1 kill it before they hear of it. And with
--max-restarts it starts workers again whatever they ended with; here only where that may help.

    python -m train.torchrun --standalone --nproc-per-node=2 -m train.run RECIPE
"""

from __future__ import annotations

import sys

from configs.errors import EXIT_BUG, EXIT_USER, run_command

SIGNALS = "SIGTERM,SIGINT,SIGUSR1"
SECONDS_TO_SAVE = 120
"""How long the workers may take to save after such a signal, before they are killed [s]."""


def main(argv: list[str] | None = None) -> int:
    """Runs torchrun with these arguments; returns the workers' exit code."""
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    from train.stopping import EXIT_REQUEUE

    _restart_only_failures()
    options = [f"--signals-to-handle={SIGNALS}", f"--shutdown-timeout={SECONDS_TO_SAVE}"]
    try:
        run.main([*options, *(sys.argv[1:] if argv is None else argv)])
    except SignalException:
        return EXIT_REQUEUE
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode == EXIT_REQUEUE:
            return EXIT_REQUEUE
        died = f"was killed by signal {-failure.exitcode}"
        ended = f"ended with exit code {failure.exitcode}"
        how = died if failure.exitcode < 0 else ended
        print(f"error: rank {rank} {how}, so the run ends", file=sys.stderr)
        return failure.exitcode if failure.exitcode > 0 else EXIT_BUG
    return 0


def _restart_only_failures() -> None:
    """Has torchrun leave it at that where a worker ended with a mistake of the user, or asked to be requeued."""
    from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup
    from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
    from torch.distributed.launcher import api

    from train.stopping import EXIT_REQUEUE

    class Agent(LocalElasticAgent):
        def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
            result = super()._monitor_workers(worker_group)
            codes = {failure.exitcode for failure in result.failures.values()}
            if codes & {EXIT_USER, EXIT_REQUEUE}:
                self._remaining_restarts = 0
            return result

    api.LocalElasticAgent = Agent  # type: ignore[attr-defined]


if __name__ == "__main__":
    run_command(main)
