"""`sr-deploy video` and `sr-deploy pipe`, and the options they share."""
