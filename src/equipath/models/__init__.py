"""The networks of the papers and their baselines."""
