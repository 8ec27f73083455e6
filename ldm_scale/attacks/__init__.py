"""Membership inference attacks as latent vectors, shared denoiser evaluations, and influence spectra. Torch only."""
