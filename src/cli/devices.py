"""Whether the processes and devices that there are are those that a command asks for."""

from typing import Any

from lightning.pytorch.accelerators import CUDAAccelerator, MPSAccelerator, XLAAccelerator

KINDS = {
    "gpu": (CUDAAccelerator, MPSAccelerator),
    "cuda": (CUDAAccelerator,),
    "mps": (MPSAccelerator,),
    "tpu": (XLAAccelerator,),
}


def missing_devices(accelerator: Any, devices: Any) -> str | None:
    """What is missing of the devices that a Trainer is asked to take, where something is."""
    if accelerator in KINDS and not any(kind.is_available() for kind in KINDS[accelerator]):
        return "there is no accelerator of the kind asked for: take --trainer.accelerator=auto (what there is), or cpu"
    there = range(CUDAAccelerator.auto_device_count())
    asked = _numbers(devices)
    if not there or all(number in there for number in asked):
        return None
    wanted, found = (", ".join(map(str, numbers)) for numbers in (asked, there))
    return f"the command asks for the GPUs {wanted}, and there are {found}: lower --trainer.devices (auto: all)"


def _numbers(devices: Any) -> list[int]:
    """`4` as 0 to 3, `"0,2"` and `[0, 2]` as 0 and 2; what means all devices, or nothing, as none."""
    if isinstance(devices, str) and "," in devices:
        devices = [number.strip() for number in devices.split(",") if number.strip()]
    try:
        return [int(number) for number in devices] if isinstance(devices, list) else [*range(int(devices))]
    except ValueError:
        return []
