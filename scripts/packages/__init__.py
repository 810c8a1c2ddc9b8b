"""What Amazon Linux lacks: packages of our own, built in Docker, and releases of others."""
