"""Reading and writing files in formats that others have defined."""
