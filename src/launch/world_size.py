"""Whether a launcher started as many processes as the Trainer expects."""

import os


def check_world_size(num_devices: int, num_nodes: int) -> None:
    """Raise a ValueError if a launcher started another number of processes than the Trainer expects.

    Lightning checks this only when training starts. With one device it does not check: each process would train alone.
    """
    expected = num_devices * num_nodes
    started = int(os.environ.get("WORLD_SIZE", expected))
    if started != expected:
        per_node = int(os.environ.get("LOCAL_WORLD_SIZE", started))  # torchrun sets it
        raise ValueError(
            f"{started} processes were started (WORLD_SIZE={started}), and {num_devices} devices on {num_nodes} nodes "
            f"make {expected}: set --trainer.devices={per_node} --trainer.num_nodes={started // per_node}, or start "
            f"{expected}"
        )
