"""The two methods, their baselines, and the interface they share."""
