"""Where data come from: one dataset, or one family of datasets, a file."""
