"""What speaks for and against a value: checks, uncertainty, re-matched pairs, the histogram of scores."""
