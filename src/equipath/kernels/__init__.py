"""Where filters come from: pure functions from parameters to taps, and how a filter bank is applied."""
