"""Search, train together and embed on a Ray cluster: here on this machine, elsewhere `ray.init("auto")`."""

import tempfile

import joblib
import numpy as np
import ray
from ray.train import ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.joblib import register_ray
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

import sklearn_ssl
from sklearn_ssl import SSLImageEmbedder


class Embed:
    """An actor that loads the model once."""

    def __init__(self, path: str):
        self.embedder = sklearn_ssl.load(path)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"i": batch["i"], "embedding": self.embedder.transform(batch["image"])}


def train(config: dict) -> None:
    """Train one model on all workers, each of which calls this; the first saves it."""
    embedder = SSLImageEmbedder("vicreg", max_epochs=1, batch_size=64, random_state=0).fit(config["images"])
    if ray.train.get_context().get_world_rank() == 0:
        embedder.save(config["path"])


def main() -> None:
    data = load_digits()
    images, labels = data.images[:200].astype(np.uint8), data.target[:200]
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    register_ray()
    pipe = make_pipeline(SSLImageEmbedder(max_epochs=1, batch_size=64, random_state=0), LogisticRegression())
    with joblib.parallel_config("ray"):  # every fit of the search on a worker of the cluster
        search = GridSearchCV(pipe, {"sslimageembedder__loss": ["ntxent", "vicreg"]}, cv=2).fit(
            images, labels
        )
    print("best loss:", search.best_params_["sslimageembedder__loss"])
    with tempfile.TemporaryDirectory() as folder:  # on a cluster: a folder that all machines share
        path = f"{folder}/model.safetensors"
        TorchTrainer(
            train,
            train_loop_config={"images": images, "path": path},
            torch_config=TorchConfig(backend="gloo"),  # with GPUs: leave it out, and use_gpu=True
            scaling_config=ScalingConfig(num_workers=2),
            run_config=ray.train.RunConfig(storage_path=folder),
        ).fit()
        pool = ray.data.ActorPoolStrategy(size=1)
        rows = ray.data.from_items([{"i": i, "image": image} for i, image in enumerate(images)])
        rows = rows.map_batches(Embed, fn_constructor_args=(path,), batch_size=64, compute=pool).take_all()
        expected = sklearn_ssl.load(path).transform(images)
    embeddings = np.stack([row["embedding"] for row in sorted(rows, key=lambda row: row["i"])])
    difference = np.abs(embeddings - expected).max()
    print(f"{len(embeddings)} rows, largest difference from one transform: {difference:.1e}")
    ray.shutdown()


if __name__ == "__main__":
    main()
