"""Speed and memory of norms and of training, ours against theirs: `make bench` writes docs/benchmarks.md."""
