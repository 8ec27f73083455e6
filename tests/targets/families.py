"""Every family of targets, tiny."""

from diffusers import DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler, PNDMScheduler

from tests.targets import tiny

FAMILIES = {
    tiny.vq_ldm: DDIMScheduler,
    tiny.strided: DDPMScheduler,
    tiny.class_unet: DDPMScheduler,
    tiny.class_conditional_unet: DDPMScheduler,
    tiny.class_token: DDPMScheduler,
    tiny.dit: DDIMScheduler,
    tiny.stable_diffusion: PNDMScheduler,
    tiny.stable_diffusion_xl: EulerDiscreteScheduler,
    tiny.stable_diffusion_3: None,
    tiny.flux: None,
}

CAPTIONS, LABELS = ["a cat", "", "dog"], [0, 4, 2]
