"""Obtain mkosi, patch it, install it, run it, and explain its failures."""
