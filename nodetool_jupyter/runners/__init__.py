"""Kinds of places in which a job can run."""
