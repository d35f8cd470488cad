"""The simplest trial of each fault that the fuzzer has found."""

from tests.norms.fuzz.axes import AxesTrial
from tests.norms.fuzz.layout import Layout
from tests.norms.fuzz.trial import Trial

CHANNELS_LAST = Layout((0, 2, 3, 1))

FOUND: tuple[Trial | AxesTrial, ...] = (
    Trial("RMSNorm", {"normalized_shape": (3, 4, 5)}, (2, 3, 4, 5), CHANNELS_LAST),
    Trial("BatchNorm2d", {"num_features": 0, "affine": False, "track_running_stats": False}, (5, 0, 5, 5)),
    Trial("GroupNorm", {"num_channels": 0, "num_groups": 1}, (1, 0, 1, 1)),
    Trial(  # the variance plus eps is below what float16 can represent
        "BatchNorm1d",
        {"num_features": 1, "eps": 1e-8, "momentum": 1.0, "affine": False},
        (1, 1, 2),
        dtype="float16",
        parameter_dtype="float16",
        scale=0.0,
        modes=(True, False),
    ),
    Trial(  # one channel would be broadcast to two running statistics
        "InstanceNorm1d", {"num_features": 2, "track_running_stats": True}, (1, 1, 2)
    ),
    Trial("InstanceNorm1d", {"num_features": 2, "track_running_stats": True}, (1, 1, 1)),  # two errors at once
    # What no layer asks for.
    AxesTrial((2, 3, 4, 5), CHANNELS_LAST, dims=(1, 2, 3), parameters=(False, True, True, True)),
    AxesTrial((2, 3, 4, 5), CHANNELS_LAST, dims=(3,), parameters=None),
    AxesTrial((4, 6, 5), Layout(), dims=(0, 2), parameters=(False, False, False)),
    AxesTrial((4, 5, 2, 3), Layout(), dims=(1, 3), parameters=(False, False, False, True)),
)
