"""What is watched, written once: alerts and recording rules, and the panels of the dashboards."""
