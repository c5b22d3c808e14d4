"""The HTML report of results: `page` puts it together, and nothing in it needs a script or a network."""
