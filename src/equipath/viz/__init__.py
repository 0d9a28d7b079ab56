"""Figures of filters and of networks."""
