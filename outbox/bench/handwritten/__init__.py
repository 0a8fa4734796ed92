"""What one would write by hand, and nothing more: the ceilings of the measurements.

No routes, no lease, no dead letters, no stored position, no settings.
"""
