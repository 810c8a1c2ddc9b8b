"""What Amazon Linux lacks: our own packages, built in Docker, and releases of other projects."""
