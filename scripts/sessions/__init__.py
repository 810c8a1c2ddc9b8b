"""One file for each session, which reads its command line."""
