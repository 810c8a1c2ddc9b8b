"""The mkosi program: obtained, patched, and run."""
