"""The contract: what Lima, Finch and others ask of a guest, tried step by step in real machines."""
