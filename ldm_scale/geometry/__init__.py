"""The decoder's pullback metric: Jacobian products, influence and distortion. Torch only; a decoder is any callable."""
