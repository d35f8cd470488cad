"""Faster ways to compute the norms' formula, taken where they fit and never needed."""
