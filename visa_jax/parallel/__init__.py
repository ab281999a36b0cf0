"""Where arrays lie: the mesh, and the table that lays logical axes on it."""

from visa_jax.parallel.axes import PARAM_RULES as PARAM_RULES
from visa_jax.parallel.axes import ROLLOUT_RULES as ROLLOUT_RULES
from visa_jax.parallel.axes import constrain as constrain
from visa_jax.parallel.axes import gather as gather
from visa_jax.parallel.axes import on_mesh as on_mesh
from visa_jax.parallel.axes import per_device as per_device
from visa_jax.parallel.axes import pieces as pieces
from visa_jax.parallel.axes import sharding as sharding
from visa_jax.parallel.axes import spec as spec
from visa_jax.parallel.mesh import MeshConfig as MeshConfig
from visa_jax.parallel.mesh import make_mesh as make_mesh
