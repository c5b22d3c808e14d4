"""Every architecture that spandrel loads: an instance of each, the run that tries them, and the page made of it."""
