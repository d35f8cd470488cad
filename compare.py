"""Compare norms over seeds: `python compare.py --config configs/digits.yaml --norms BatchNorm,LayerNorm --seeds 3`."""

from src.compare.main import main

if __name__ == "__main__":
    main()
