"""Runs of several processes: all end when one fails, and there are as many as the Trainer expects."""
