"""Which norms fit vectors `(B, D)`, which have features but no positions."""

from src.norms import NormFamily
from src.norms.family import NormSite


def check_vector_norm(norm: NormFamily | None, **sizes: int) -> None:
    """Raise a ValueError unless `norm` fits vectors. `sizes` has the number of features of each layer, by its name.

    Without this check a norm that takes the mean of a single value would fail at the first batch, or would not fail but
    always give 0.
    """
    if norm is None:
        return
    if norm.needs_positions:
        raise ValueError(
            f"norm={type(norm).__name__}: its statistics run over the positions of a sample, and a vector (B, D) has "
            "none; take a norm of the batch (BatchNorm) or of the features (LayerNorm, RMSNorm, GroupNorm)"
        )
    norm.check({name: NormSite(num_features, channel_dim=-1) for name, num_features in sizes.items()})
