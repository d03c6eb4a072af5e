"""The one engine that both trainings and all evaluation share."""
