"""What runs inside a job; the standard library only, as long as a cell asks for no more."""

PROTOCOL = 1

HELD_SIGNALS = (2, 15)
"""SIGINT and SIGTERM: blocked in a worker from the fork on, they wait until its work can take them."""
