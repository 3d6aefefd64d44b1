"""Where the cells of a grid are computed: in processes of this machine, or on a Ray cluster.

Both are backends of joblib, and both give a lost worker's task to another one.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import joblib
from joblib.externals.loky.process_executor import TerminatedWorkerError
from tqdm import tqdm

from .parameters import Compute
from .process import resolve_device

ATTEMPTS = 3  # at a task whose worker dies: the task may be the cause


class _Backend(NamedTuple):
    """What joblib is to run on.

    Attributes:
        settings: Of `joblib.parallel_config`.
        workers: How many.
        lost: What is raised when a worker dies.
        attempts: How often to call joblib; Ray repeats lost tasks by itself.
    """

    settings: dict[str, Any]
    workers: int
    lost: type[Exception]
    attempts: int


class _Parallel(joblib.Parallel):
    """Moves a progress bar where joblib would print."""

    bar: tqdm
    before: int  # where the bar stood

    def print_progress(self) -> None:
        self.bar.update(self.before + self.n_completed_tasks - self.bar.n)


def run(
    task: Callable[..., Any], arguments: Sequence[tuple], compute: Compute, bar: tqdm
) -> list[Any]:
    """`task(*each)` for each of `arguments`, in parallel; the results in the order given.

    Args:
        task: A function; it travels to its worker by name.
        arguments: Its arguments; they travel by pickle.
        compute: Engine, address, number of workers, and share of a GPU that each has.
        bar: Moves by 1 as each task ends.

    Raises:
        ValueError: Ray is not available.
        RuntimeError: A task's worker died `ATTEMPTS` times.
    """
    jobs = [joblib.delayed(task)(*each) for each in arguments]
    backend = _ray(compute) if compute.engine == "ray" else _processes(compute)
    before = bar.n
    for attempt in range(1, backend.attempts + 1):
        with joblib.parallel_config(**backend.settings):
            parallel = _Parallel(n_jobs=max(1, min(backend.workers, len(jobs))), batch_size=1)
            parallel.bar, parallel.before = bar, before
            try:
                return parallel(jobs)
            except backend.lost as error:
                if attempt == backend.attempts:
                    raise RuntimeError(
                        f"a worker died, {ATTEMPTS} times: is there memory for "
                        f"{backend.workers} at once? compute.workers sets their number"
                    ) from error


def _processes(compute: Compute) -> _Backend:
    # Processes that share one GPU get in each other's way.
    on_gpu = resolve_device(compute.device).type == "cuda"
    workers = compute.workers or (1 if on_gpu else joblib.cpu_count())
    return _Backend({"backend": "loky"}, workers, TerminatedWorkerError, ATTEMPTS)


def _ray(compute: Compute) -> _Backend:
    """Unless the number is given, as many actors as the cluster has room for."""
    try:
        import ray
        from ray.util.joblib import register_ray
    except ImportError as error:
        raise ValueError("compute.engine: 'ray' needs the package ray: pip install ray") from error
    if not ray.is_initialized():
        address = None if compute.address == "local" else compute.address
        try:
            ray.init(address, include_dashboard=None if address else False, log_to_driver=False)
        except ConnectionError as error:
            raise ValueError(
                f"compute.address: no Ray cluster at {compute.address!r}; start one with "
                "`ray start --head`, or write 'local' for one on this machine"
            ) from error
    register_ray()
    resources, share = ray.cluster_resources(), compute.gpus_per_cell
    room = int(resources.get("GPU", 0) / share) if share else int(resources["CPU"])
    if not room:
        raise ValueError(f"compute.gpus_per_cell: no GPU of the cluster has {share} to give")
    # A task whose actor dies goes to the actor that replaces it.
    options = {"num_gpus": share, "max_restarts": -1, "max_task_retries": ATTEMPTS - 1}
    settings = {"backend": "ray", "ray_remote_args": options}
    return _Backend(settings, compute.workers or room, ray.exceptions.RayActorError, 1)
