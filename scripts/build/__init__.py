"""One build, from the user's options to finished artifacts."""
