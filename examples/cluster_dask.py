"""Search and embed on a Dask cluster: two workers of this machine, elsewhere `Client("scheduler:8786")`."""

import functools
import tempfile

import dask.array as da
import joblib
import numpy as np
from dask.distributed import Client, LocalCluster
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

import sklearn_ssl
from sklearn_ssl import SSLImageEmbedder


@functools.cache
def model(path: str) -> SSLImageEmbedder:
    """Load the model once per worker."""
    return sklearn_ssl.load(path)


def embed(block: np.ndarray, path: str) -> np.ndarray:
    return model(path).transform(block)


def main() -> None:
    data = load_digits()
    images, labels = data.images[:200].astype(np.uint8), data.target[:200]
    pipe = make_pipeline(SSLImageEmbedder(max_epochs=1, batch_size=64, random_state=0), LogisticRegression())
    search = GridSearchCV(pipe, {"sslimageembedder__loss": ["ntxent", "vicreg"]}, cv=2)
    with (
        tempfile.TemporaryDirectory() as folder,
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster),
    ):
        with joblib.parallel_config("dask"):  # every fit of the search on a worker of the cluster
            search.fit(images, labels)
        path = f"{folder}/model.safetensors"  # on a cluster: a folder that all machines share
        search.best_estimator_[0].save(path)
        blocks = da.from_array(images, chunks=(50, 8, 8))  # elsewhere: da.from_zarr, ...
        rows = blocks.map_blocks(embed, path, dtype="float32", drop_axis=(1, 2), new_axis=1, chunks=(50, 512))
        embeddings = rows.compute()
    print("best loss:", search.best_params_["sslimageembedder__loss"])
    difference = np.abs(embeddings - search.best_estimator_[0].transform(images)).max()
    print(f"{embeddings.shape[0]} rows, largest difference from one transform: {difference:.1e}")


if __name__ == "__main__":
    main()
