"""Measures picture quality: PSNR, SSIM and MATLAB's bicubic, on the pictures of a folder."""
