"""The daemon: clocks, the supervisor loop, attempts, signals, and the wiring of everything."""
