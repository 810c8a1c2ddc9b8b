"""What any program needs: errors, processes, files, digests, locks, progress and downloads."""
