"""Measurements, always as ratios against a peer in the same run: machines are noisy, ratios less so."""
