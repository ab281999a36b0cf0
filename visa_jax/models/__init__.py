"""Models as pure functions of a parameter tree."""

from visa_jax.models.decoder import DecoderConfig as DecoderConfig
from visa_jax.models.decoder import logical_axes as logical_axes
from visa_jax.models.decoder import make_decoder as make_decoder
from visa_jax.models.heads import make_critic as make_critic
from visa_jax.models.heads import make_scorer as make_scorer
from visa_jax.models.hf import Pretrained as Pretrained
from visa_jax.models.hf import load_pretrained as load_pretrained
from visa_jax.models.hf import save_pretrained as save_pretrained
