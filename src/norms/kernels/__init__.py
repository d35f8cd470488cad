"""Kernels that compute the norms' formula faster. They are optional."""
