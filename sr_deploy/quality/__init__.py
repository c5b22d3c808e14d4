"""Measures picture quality: PSNR and SSIM as the literature does, MATLAB's bicubic, and the pictures of a
folder.
"""
