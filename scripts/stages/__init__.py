"""Stages: which are out of date, where they are built, and what is kept of each."""
