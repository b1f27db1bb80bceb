"""The deterministic heart: states, timing, the due queue, leases, operations and the scheduler over them.

Standard library only. Time is an argument, actions are values; see `renewer.core.scheduler`.
"""
