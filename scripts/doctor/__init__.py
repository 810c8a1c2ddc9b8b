"""Find out whether this machine is fit for a session, and say what to do if it is not."""
