"""Publishing a release: what it consists of, where it goes, and how it is signed."""
