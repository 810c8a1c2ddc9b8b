"""The harness: it builds, boots, checks and publishes images. noxfile.py decides when."""
