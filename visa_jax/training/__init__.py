"""The outer loop: optimizer, jitted update, metrics, progress."""
