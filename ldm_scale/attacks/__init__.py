"""Membership inference attacks as latent vectors, shared denoiser evaluations, and influence spectra. Torch only.

An attack gives a vector S_t(z) in latent space for each training timestep t; its statistic over dimensions I is
sum_{i in I} |S_{t,i}|^p, and lower means member. z is the scaled latent, (c, h, w), abar_t the schedule's cumulative
alpha, and eps(x, t) the denoiser's noise prediction.
"""
