"""Results of `sr-deploy bench` as one HTML page."""
