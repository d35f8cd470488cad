"""Where the runs run: here, or on a Ray cluster."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from threading import Event
from typing import Any

from src.cli.parser import fail
from src.compare.options import REPOSITORY
from src.compare.run import Job, State, execute

RETRIES = 3
"""How often a run is tried again on another worker after its worker has died."""

Report = Callable[[Job, State], None]


def run_here(jobs: Sequence[Job], at_once: int, report: Report) -> None:
    """On this machine, in the order of the jobs; `report` is called as each ends."""
    stop = Event()
    with ThreadPoolExecutor(at_once) as pool:
        futures = {pool.submit(execute, job, stop.is_set): job for job in jobs}
        try:
            for future in as_completed(futures):
                report(futures[future], future.result())
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise


class Cluster:
    """A Ray cluster, whose machines see the output folder, the data and this repository under the same paths."""

    def __init__(self, address: str):
        try:
            import ray
        except ModuleNotFoundError:
            fail("--ray needs Ray, which is not installed: pip install -r requirements-ray.txt")
        self.ray: Any = ray
        # Workers otherwise find this project only where they share the driver's search path.
        environment = {"env_vars": {"PYTHONPATH": str(REPOSITORY)}}
        try:
            ray.init(address, runtime_env=environment, log_to_driver=False, logging_level="error")
        except (ConnectionError, ValueError, RuntimeError) as error:
            fail(f"no Ray cluster at --ray={address}: {error}")

    def _smallest(self, resource: str) -> int:
        """How much of a resource each machine that has some has, at least."""
        amounts = [int(node["Resources"].get(resource, 0)) for node in self.ray.nodes() if node["Alive"]]
        return min((amount for amount in amounts if amount), default=0)

    @property
    def num_cores(self) -> int:
        return max(1, self._smallest("CPU"))

    def run(self, jobs: Sequence[Job], report: Report) -> None:
        """One task for each job; Ray chooses where and when, and starts it again where a worker dies."""
        remote = self.ray.remote(execute)
        pending = {remote.options(**self._needs(job)).remote(job): job for job in jobs}
        try:
            while pending:
                (reference,), _ = self.ray.wait(list(pending), num_returns=1)
                try:
                    state = self.ray.get(reference)
                except self.ray.exceptions.RayError as error:
                    state = State("failed", 0, f"{type(error).__name__}: {error}".splitlines()[0])
                report(pending.pop(reference), state)
        except BaseException:
            for reference in pending:
                self.ray.cancel(reference)  # raises KeyboardInterrupt in the task, which ends its process
            if pending:
                self.ray.wait(list(pending), num_returns=len(pending), timeout=60)
            raise
        finally:
            self.ray.shutdown()

    def _needs(self, job: Job) -> dict[str, float]:
        needs: dict[str, float] = {"num_cpus": job.threads, "num_gpus": 0, "max_retries": RETRIES}
        # A task that asks for no GPU sees none.
        if self._smallest("GPU") and job.options["trainer"]["accelerator"] != "cpu":
            devices = job.options["trainer"]["devices"]
            needs["num_gpus"] = devices if isinstance(devices, int) and devices > 0 else 1
        return needs
