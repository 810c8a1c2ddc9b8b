"""What is newer than the versions that are pinned."""
