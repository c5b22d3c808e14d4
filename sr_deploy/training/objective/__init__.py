"""The training objective: losses, the VGG features that some of them use, and teachers."""
