"""Execute the runs on this machine or on a Ray cluster."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from threading import Event
from typing import Any

from src.cli.parser import fail
from src.compare.run import Job, State, execute, next_version
from src.machine import REPOSITORY

RETRIES = 3
"""How often Ray repeats a run on another worker after its worker has died."""

Report = Callable[[Job, State], None]


def run_here(jobs: Sequence[Job], at_once: int, report: Report) -> None:
    """Run the jobs on this machine in their order, `at_once` at a time; call `report` when a job ends."""
    stop = Event()
    with ThreadPoolExecutor(at_once) as pool:
        futures = {pool.submit(execute, job, stop.is_set): job for job in jobs}
        try:
            for future in as_completed(futures):
                try:
                    state = future.result()
                except Exception as error:
                    state = _failed(futures[future], error)
                report(futures[future], state)
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise


def _failed(job: Job, error: Exception) -> State:
    """The state of a run that raised an error here. Its folder may be incomplete: the next attempt is a new run."""
    return State("failed", next_version(job), f"{type(error).__name__}: {error}".splitlines()[0])


class RayCluster:
    """A Ray cluster; its machines must see the output folder, the data and this repository under the same paths."""

    def __init__(self, address: str):
        try:
            import ray
        except ModuleNotFoundError:
            fail("--ray needs Ray, which is not installed: pip install -r requirements-ray.txt")
        self.ray: Any = ray
        # So that workers can import this project; Ray replaces ${PYTHONPATH} by the worker's own.
        environment = {"env_vars": {"PYTHONPATH": f"{REPOSITORY}{os.pathsep}${{PYTHONPATH}}"}}
        try:
            ray.init(address, runtime_env=environment, log_to_driver=False, logging_level="error")
        except (ConnectionError, ValueError, RuntimeError) as error:
            fail(f"no Ray cluster at --ray={address}: {error}")

    def _smallest(self, resource: str) -> int:
        """The smallest amount of a resource on a machine that has any of it; 0 if no machine has."""
        amounts = [int(node["Resources"].get(resource, 0)) for node in self.ray.nodes() if node["Alive"]]
        return min((amount for amount in amounts if amount), default=0)

    @property
    def num_cores(self) -> int:
        return max(1, self._smallest("CPU"))

    def run(self, jobs: Sequence[Job], report: Report) -> None:
        """Run each job as one task; Ray chooses the machine and the time, and repeats a task whose worker died.

        Ends the program if no machine has the resources of a job: Ray would wait for such a machine for ever.
        """
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        for job in jobs:
            cores, gpus = (self._needs(job)[resource] for resource in ("num_cpus", "num_gpus"))
            if not any(node.get("CPU", 0) >= cores and node.get("GPU", 0) >= gpus for node in nodes):
                fail(
                    f"{job.name} needs {cores:g} cores and {gpus:g} GPUs of one machine, and none of the Ray cluster's "
                    f"{len(nodes)} has as many: lower OMP_NUM_THREADS or --trainer.devices"
                )
        remote = self.ray.remote(execute)
        pending = {remote.options(**self._needs(job)).remote(job): job for job in jobs}
        try:
            while pending:
                (reference,), _ = self.ray.wait(list(pending), num_returns=1)
                try:
                    state = self.ray.get(reference)
                except self.ray.exceptions.RayError as error:
                    state = _failed(pending[reference], error)
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
        """The options of the job's task: cores, GPUs and retries."""
        needs: dict[str, float] = {"num_cpus": job.threads, "num_gpus": 0, "max_retries": RETRIES}
        # Ray hides the GPUs from a task that asks for none.
        if self._smallest("GPU") and job.options["trainer"]["accelerator"] != "cpu":
            devices = job.options["trainer"]["devices"]
            needs["num_gpus"] = devices if isinstance(devices, int) and devices > 0 else 1
        return needs
