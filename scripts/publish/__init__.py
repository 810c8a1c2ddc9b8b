"""Publishing a release: what it consists of, where it goes, and who signs it."""
