"""Calibrate: one head of a bundle, fitted to a laboratory's own controls by a slope and an intercept."""
