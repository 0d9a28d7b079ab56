"""Where filters come from: pure functions from parameters to filter taps, and how a filter bank is applied."""
