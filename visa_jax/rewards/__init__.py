"""Rewards: functions from a rollout to one number per row, and their stack [B, K]."""
