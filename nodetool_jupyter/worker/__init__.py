"""What runs inside a job: standard library only on the boot path."""
