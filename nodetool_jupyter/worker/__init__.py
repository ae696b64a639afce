"""What runs inside a job; the standard library only, as long as a cell asks for no more."""

PROTOCOL = 1
