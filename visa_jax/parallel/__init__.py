"""Devices and processes: mesh, axes, multi-host."""
