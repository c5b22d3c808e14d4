"""Many pictures: which ones, what goes where, what is done already; on one machine or on a Ray cluster."""
