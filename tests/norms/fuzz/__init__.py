"""A differential fuzzer: random layers, ours beside torch's and beside a computation in extended precision.

`make fuzz MINUTES=30` runs it. The suite runs a short part with a fixed seed (tests/norms/test_fuzz.py).
"""
