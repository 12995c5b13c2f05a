"""Diffusion: noise schedules, the denoiser, guidance, samplers and per-image noise. Knows no network and no file."""
