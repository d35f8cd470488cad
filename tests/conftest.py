"""No network, and quiet libraries, in every test and in the processes they start."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["JSONARGPARSE_DEPRECATION_WARNINGS"] = "off"  # Lightning's own calls

import lightning  # noqa: F401 (before pytest captures the streams that its log handlers keep)
