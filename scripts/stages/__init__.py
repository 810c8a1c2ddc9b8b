"""What is out of date, where it is built, and what is kept of it."""
