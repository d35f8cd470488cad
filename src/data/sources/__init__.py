"""The datasets: each file has one dataset or one family of datasets."""
