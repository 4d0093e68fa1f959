"""Grid search over losses and their parameters, in a pipeline with a classifier.

    python examples/grid_search.py

`param_grid` splits one flat grid for several losses, so that each loss gets only the parameters that it has.
With `Pipeline(memory=...)`, an embedder is trained once per setting and fold, whatever the grid of the
classifier.
"""

from __future__ import annotations

import argparse
import tempfile

from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_ssl import SSLImageEmbedder, param_grid


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--images", type=int, default=600)
    args = parser.parse_args()

    images, labels = load_digits(return_X_y=True)
    embedder = SSLImageEmbedder(image_shape=(8, 8), max_epochs=args.epochs, batch_size=64, random_state=0)
    with tempfile.TemporaryDirectory() as cache:
        pipe = Pipeline(
            [("ssl", embedder), ("scale", StandardScaler()), ("clf", LogisticRegression(max_iter=2000))],
            memory=cache,
        )
        grid = param_grid(
            pipe,
            {
                "ssl__loss": ["ntxent", "vicreg"],
                "ssl__loss__temperature": [0.1, 0.5],  # ntxent has it, vicreg does not
                "ssl__loss__std_coeff": [10, 25],
                "clf__C": [0.01, 0.1],
            },
        )
        search = GridSearchCV(pipe, grid, cv=3, verbose=2)
        search.fit(images[: args.images], labels[: args.images])
    print(f"\nBest: {search.best_params_}\nCross-validated accuracy: {100 * search.best_score_:.1f} %")


if __name__ == "__main__":
    main()
