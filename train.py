"""Train, validate, test and predict: `python train.py fit --config configs/digits.yaml`."""

import sys

from src.launch.process import end_with_launcher, run_as_one

QUICK_START = """\
Train a classifier; the normalization layer is a flag.

  python train.py fit --config configs/digits.yaml                          train a ResNet, then test it
  python train.py fit --config configs/digits.yaml --model.norm=GroupNorm   the same with another norm
  python train.py fit --config configs/reuters8.yaml                        train a Transformer on text
  python train.py test --config configs/digits.yaml --ckpt_path=best        test the newest run again
  tensorboard --logdir runs                                                 watch

More: python train.py fit --help, the other files in configs/, and README.md.
"""


def main() -> None:
    end_with_launcher()
    if len(sys.argv) == 1:
        print(QUICK_START, end="")
        return
    from src.cli import TrainCLI  # seconds of imports, which the lines above do not need

    run_as_one(TrainCLI)


if __name__ == "__main__":
    main()
