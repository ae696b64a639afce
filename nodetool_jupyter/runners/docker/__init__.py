"""The `docker` runner: one container per job."""
