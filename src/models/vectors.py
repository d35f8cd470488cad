"""Which norms fit vectors: inputs (B, D), whose features have no positions."""

from src.norms import NormFamily
from src.norms.family import NormSite


def check_vector_norm(norm: NormFamily | None, **sizes: int) -> None:
    """Raise ValueError unless `norm` can normalize vectors of so many features, by the names of their layers.

    What is wrong with one value in a mean shows at the first batch, or never: its norm is always 0.
    """
    if norm is None:
        return
    if norm.needs_positions:
        raise ValueError(
            f"norm={type(norm).__name__}: its statistics run over the positions of a sample, and a vector (B, D) has "
            "none; take a norm of the batch (BatchNorm) or of the features (LayerNorm, RMSNorm, GroupNorm)"
        )
    norm.check({name: NormSite(num_features, channel_dim=-1) for name, num_features in sizes.items()})
