"""Uncompressed video frames: their layouts in memory, their colours, and pipes and queues that carry them."""
