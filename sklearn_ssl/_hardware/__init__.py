"""Devices, the process around a fit, and fast operations for CPUs."""
