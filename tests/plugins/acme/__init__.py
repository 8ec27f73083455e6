"""A package that adds an attack, an estimator of influence, a family of targets and a kind of source to ldm_scale."""
