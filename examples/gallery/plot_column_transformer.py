"""
Images and tabular columns
==========================

Images often come with measurements: age and sex of a patient, date and place of a photograph. In a
ColumnTransformer, the embedder takes the column of paths or encoded images, and other transformers the
rest. This example predicts a class that neither images nor measurements tell alone.
"""

# %%
# Each row has the PNG of a digit and two measurements. The class to predict is the parity of the digit
# where the first measurement is positive, and the opposite elsewhere.

import io

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from PIL import Image
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_digits
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_ssl import SSLImageEmbedder


def png(pixels):
    file = io.BytesIO()
    Image.fromarray((pixels * 15).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


digits = load_digits()
rng = np.random.default_rng(0)
table = pd.DataFrame(
    {
        "image": [png(pixels) for pixels in digits.images],
        "first": rng.normal(size=1797),
        "second": rng.normal(size=1797),
    }
)
target = (digits.target % 2 == 1) ^ (table["first"] < 0)

# %%
# The embeddings have 512 columns; boosted trees then combine them with the measurements.


def model(columns):
    return make_pipeline(
        ColumnTransformer([columns[name] for name in columns]),
        HistGradientBoostingClassifier(max_iter=40, random_state=0),
    )


embed = ("image", SSLImageEmbedder(max_epochs=5, batch_size=128, random_state=0), "image")
scale = ("table", StandardScaler(), ["first", "second"])
models = {
    "both": model({"image": embed, "table": scale}),
    "images alone": model({"image": embed}),
    "table alone": model({"table": scale}),
}
scores = {name: cross_val_score(m, table, target, cv=3) for name, m in models.items()}

# %%
# Only both together tell the class.

figure, axis = plt.subplots(figsize=(6, 3), layout="constrained")
bars = axis.barh(list(scores), [s.mean() for s in scores.values()], xerr=[s.std() for s in scores.values()])
axis.axvline(0.5, color="gray", linestyle="--")
axis.set(xlabel="accuracy in cross-validation", xlim=(0, 1))
print(f"both: {scores['both'].mean():.1%}, images alone: {scores['images alone'].mean():.1%}")
