"""Programs that Amazon Linux lacks: our packages, built in Docker, and third-party files."""
