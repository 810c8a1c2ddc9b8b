"""One build, from what was asked for to finished artifacts."""
