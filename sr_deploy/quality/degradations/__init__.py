"""Ways in which small pictures lose quality: resampling, filters, noise and compression.

Every step takes and gives float32 pixels [H, W, 3], RGB in 0..255. `sr_deploy.training.data.degrade` draws the
strengths at random; `chain` reads steps from text, for `sr-deploy eval --degrade`.
"""
