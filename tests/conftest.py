"""No network, and quiet libraries, in every test and in the processes they start."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["JSONARGPARSE_DEPRECATION_WARNINGS"] = "off"  # Lightning's own calls
