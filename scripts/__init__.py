"""The harness: how images are built, booted and checked. noxfile.py decides when."""
