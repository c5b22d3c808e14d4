"""Uncompressed frames as other programs hand them over: their layouts, their colours, and a flow of them."""
