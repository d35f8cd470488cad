"""Whether the machine has the devices that a command asks for."""

from typing import Any

from lightning.pytorch.accelerators import CUDAAccelerator, MPSAccelerator, XLAAccelerator

ACCELERATORS = {
    "gpu": (CUDAAccelerator, MPSAccelerator),
    "cuda": (CUDAAccelerator,),
    "mps": (MPSAccelerator,),
    "tpu": (XLAAccelerator,),
}


def missing_devices(accelerator: Any, devices: Any) -> str | None:
    """A message if the machine lacks devices that the Trainer has to use; else None."""
    if accelerator in ACCELERATORS and not any(each.is_available() for each in ACCELERATORS[accelerator]):
        return "there is no accelerator of the kind asked for: take --trainer.accelerator=auto (what there is), or cpu"
    there = range(CUDAAccelerator.auto_device_count())
    asked = _numbers(devices)
    if not there or all(number in there for number in asked):
        return None
    wanted, found = (", ".join(map(str, numbers)) for numbers in (asked, there))
    return f"the command asks for the GPUs {wanted}, and there are {found}: lower --trainer.devices (auto: all)"


def _numbers(devices: Any) -> list[int]:
    """The devices' numbers: 0 to 3 for `4`, 0 and 2 for `"0,2"` and `[0, 2]`; none for a value such as `auto` or -1."""
    if isinstance(devices, str) and "," in devices:
        devices = [number.strip() for number in devices.split(",") if number.strip()]
    try:
        return [int(number) for number in devices] if isinstance(devices, list) else [*range(int(devices))]
    except ValueError:
        return []
