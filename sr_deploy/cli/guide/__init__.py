"""Help at the prompt: pages of the documentation, and completion by the shell."""
