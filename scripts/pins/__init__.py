"""Looking up newer versions of what is pinned, and pinning them."""
