"""Targets: each package keeps leases or follows operations on one kind of remote system."""
