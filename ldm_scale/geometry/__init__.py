"""The decoder's pullback metric: Jacobian products, influence and distortion. Torch only; a decoder is any callable.

Definitions are those of Rao, Qu and Moyer, CVPR 2026 (arXiv 2511.20592). A latent z has shape (c, h, w) and D = c h w
dimensions, an image (3, H, W) and M = 3 H W values. J is the decoder's Jacobian at z, (M, D), and G = J^T J its
pullback metric. Influences and distortions are natural logarithms. `decode` maps latents to images, and `memory` is
how many bytes the products computed at once may hold.
"""
